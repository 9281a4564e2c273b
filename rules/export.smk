# Networks as ONNX at a fixed batch size: trained ones, and those that come from a file.


rule export_onnx:
    input:
        model=from_checkpoint,
        logits=reference_logits,
        features=f"results/extract_features/{DATA}/test.npz",
        environment=environment("train"),
    output:
        "results/export_onnx/{data}/{network}/seed{seed}/batch{batch_size}.onnx",
    log:
        "logs/export_onnx/{data}/{network}/seed{seed}/batch{batch_size}.log",
    conda:
        "../envs/train.yaml"
    params:
        code=fingerprint("export_onnx"),
        deploy=deploy("train"),
        program=program("export_onnx", "train"),
    message:
        "Exporting {wildcards.network}, batch {wildcards.batch_size}"
    shell:
        "{params.deploy} {params.program} --model {input.model} --batch-size {wildcards.batch_size} "
        "--features {input.features} --logits {input.logits} --out {output} > {log} 2>&1"


rule download_network:
    output:
        "data/download_network/{network}.onnx",
    log:
        "logs/download_network/{network}.log",
    wildcard_constraints:
        network="|".join(FROM_FILES) or "none",
    localrule: True
    conda:
        "../envs/workflow.yaml"
    params:
        code=fingerprint("download_dataset"),
        program=program("download_dataset"),
        url=network_address,
        sha256=network_sha256_option,
    message:
        "Downloading the network {wildcards.network}"
    shell:
        "{params.program} --url {params.url:q} {params.sha256} --out {output} 2>&1 | tee {log}"


rule import_network:
    input:
        files=own_files_of,
        checked=ancient("results/check_networks.json"),
        environment=environment("train"),
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
        code=fingerprint("import_network"),
        deploy=deploy("train"),
        program=program("import_network", "train"),
        spec=training_spec,
        calibration=config["quantization"]["calibration_clips"],
        folder=subpath(output[0], parent=True),
    message:
        "Reading the network {wildcards.network}"
    shell:
        "{params.deploy} {params.program} --onnx {input.files[0]:q} --network {wildcards.network} "
        "--dataset {wildcards.data} --spec {params.spec:q} --calibration-samples {params.calibration} "
        "--seed {wildcards.seed} --out {params.folder} 2>&1 | tee {log}"


rule fix_batch_size:
    input:
        model="results/import_network/{data}/{network}/seed{seed}/model.onnx",
        samples="results/import_network/{data}/{network}/seed{seed}/test.npz",
        logits="results/import_network/{data}/{network}/seed{seed}/logits.npy",
        environment=environment("train"),
    output:
        model="results/fix_batch_size/{data}/{network}/seed{seed}/batch{batch_size}.onnx",
        status="results/fix_batch_size/{data}/{network}/seed{seed}/batch{batch_size}.onnx.json",
    log:
        "logs/fix_batch_size/{data}/{network}/seed{seed}/batch{batch_size}.log",
    conda:
        "../envs/train.yaml"
    params:
        code=fingerprint("fix_batch_size", "attempt"),
        deploy=deploy("train"),
        attempt=program("attempt"),
        program=program("fix_batch_size", "train"),
        environment=environment_status("train"),
    message:
        "{wildcards.network} at batch {wildcards.batch_size}"
    shell:
        "{params.deploy} {params.attempt} {params.environment} --model {output.model} --status {output.status} -- "
        "{params.program} --model {input.model} --batch-size {wildcards.batch_size} "
        "--samples {input.samples} --logits {input.logits} --out {output.model} > {log} 2>&1"
