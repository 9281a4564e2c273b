# Networks as ONNX at a fixed batch size: trained ones, and those that come from a file.


rule export_onnx:
    input:
        model=lambda wildcards: trained(wildcards.network, "model.pt", wildcards.seed),
        logits=lambda wildcards: trained(wildcards.network, "logits.npy", wildcards.seed),
        features=f"results/extract_features/{DATA}/test.npz",
        environment=environment("train"),
        code=sources("export_onnx"),
    output:
        "results/export_onnx/{data}/{network}/seed{seed}/batch{batch_size}.onnx",
    log:
        "logs/export_onnx/{data}/{network}/seed{seed}/batch{batch_size}.log",
    conda:
        "../envs/train.yaml"
    params:
        python=python("train"),
    message:
        "Exporting {wildcards.network}, batch {wildcards.batch_size}"
    shell:
        "{params.python} workflow/scripts/export_onnx.py --model {input.model} --batch-size {wildcards.batch_size} "
        "--features {input.features} --logits {input.logits} --out {output} > {log} 2>&1"


rule download_network:
    input:
        code=sources("download_dataset"),
    output:
        "data/download_network/{network}.onnx",
    log:
        "logs/download_network/{network}.log",
    wildcard_constraints:
        network="|".join(FROM_FILES) or "none",
    conda:
        "../envs/workflow.yaml"
    params:
        url=lambda wildcards: config["networks"][wildcards.network]["onnx"],
        sha256=lambda wildcards: sha256_option(config["networks"][wildcards.network]),
    message:
        "Downloading the network {wildcards.network}"
    shell:
        "python workflow/scripts/download_dataset.py --url {params.url:q} {params.sha256} --out {output} "
        "2>&1 | tee {log}"


rule import_network:
    input:
        files=lambda wildcards: network_files(wildcards.network),
        checked=ancient("results/check_networks.json"),
        environment=environment("train"),
        code=sources("import_network"),
    output:
        expand(
            "results/import_network/{{data}}/{{network}}/seed{{seed}}/{file}",
            file=["model.onnx", "test.npz", "calibration.npz", "logits.npy", "metrics.json"],
        ),
    log:
        "logs/import_network/{data}/{network}/seed{seed}.log",
    wildcard_constraints:
        network="|".join(FROM_FILES) or "none",
    conda:
        "../envs/train.yaml"
    params:
        python=python("train"),
        spec=lambda wildcards: as_json(study.training_spec(config, wildcards.network)),
        calibration=config["quantization"]["calibration_clips"],
        folder=lambda wildcards, output: os.path.dirname(output[0]),
    message:
        "Reading the network {wildcards.network}"
    shell:
        "{params.python} workflow/scripts/import_network.py --onnx {input.files[0]:q} --network {wildcards.network} "
        "--dataset {wildcards.data} --spec {params.spec:q} --calibration-samples {params.calibration} "
        "--seed {wildcards.seed} --out {params.folder} 2>&1 | tee {log}"


rule fix_batch_size:
    input:
        model="results/import_network/{data}/{network}/seed{seed}/model.onnx",
        samples="results/import_network/{data}/{network}/seed{seed}/test.npz",
        logits="results/import_network/{data}/{network}/seed{seed}/logits.npy",
        environment=environment("train"),
        code=sources("fix_batch_size", "attempt"),
    output:
        model="results/fix_batch_size/{data}/{network}/seed{seed}/batch{batch_size}.onnx",
        status="results/fix_batch_size/{data}/{network}/seed{seed}/batch{batch_size}.onnx.json",
    log:
        "logs/fix_batch_size/{data}/{network}/seed{seed}/batch{batch_size}.log",
    conda:
        "../envs/train.yaml"
    params:
        python=python("train"),
        environment=environment_option("train"),
    message:
        "{wildcards.network} at batch {wildcards.batch_size}"
    shell:
        "python workflow/scripts/attempt.py {params.environment} --model {output.model} --status {output.status} -- "
        "{params.python} workflow/scripts/fix_batch_size.py --model {input.model} --batch-size {wildcards.batch_size} "
        "--samples {input.samples} --logits {input.logits} --out {output.model} > {log} 2>&1"
