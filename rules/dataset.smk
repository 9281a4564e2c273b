# From audio to the network's input.


rule download_dataset:
    input:
        code=sources("download_dataset"),
    output:
        "data/download_dataset/{dataset}/{part}.tar.gz",
    log:
        "logs/download_dataset/{dataset}-{part}.log",
    wildcard_constraints:
        part="train|test",
    conda:
        "../envs/workflow.yaml"
    params:
        url=lambda wildcards: config["datasets"][wildcards.dataset][wildcards.part]["url"],
        sha256=lambda wildcards: sha256_option(config["datasets"][wildcards.dataset][wildcards.part]),
    message:
        "Downloading {wildcards.dataset}, {wildcards.part} archive"
    shell:
        "python workflow/scripts/download_dataset.py --url {params.url:q} {params.sha256} --out {output} "
        "2>&1 | tee {log}"


rule prepare_dataset:
    input:
        archives=archives,
        environment=environment("train"),
        code=sources("prepare_dataset"),
    output:
        waveforms=expand(
            "results/prepare_dataset/{{dataset}}-{{class_set}}/{file}",
            file=["train.npy", "validation.npy", "test.npy", "noise.npy"],
        ),
        clips=expand(
            "results/prepare_dataset/{{dataset}}-{{class_set}}/{file}",
            file=["train.csv", "validation.csv", "test.csv", "dataset.json"],
        ),
    log:
        "logs/prepare_dataset/{dataset}-{class_set}.log",
    wildcard_constraints:
        class_set="commands|digits",
    conda:
        "../envs/train.yaml"
    threads: 8
    params:
        python=python("train"),
        folder=lambda wildcards, output: os.path.dirname(output.waveforms[0]),
        archives=lambda wildcards, input: archive_options(input.archives),
        settings=lambda wildcards: as_json(dataset_settings(wildcards.dataset)),
    message:
        "Preparing the data set {wildcards.dataset}, class set {wildcards.class_set}"
    shell:
        "{params.python} workflow/scripts/prepare_dataset.py --dataset {wildcards.dataset} "
        "--class-set {wildcards.class_set} --settings {params.settings:q} {params.archives} "
        "--threads {threads} --out {params.folder} 2>&1 | tee {log}"


rule extract_features:
    input:
        data=rules.prepare_dataset.output,
        environment=environment("train"),
        code=sources("extract_features"),
    output:
        train="results/extract_features/{dataset}-{class_set}/train.npy",
        noise="results/extract_features/{dataset}-{class_set}/noise.npy",
        test="results/extract_features/{dataset}-{class_set}/test.npz",
        validation="results/extract_features/{dataset}-{class_set}/validation.npz",
        calibration="results/extract_features/{dataset}-{class_set}/calibration.npz",
        calibration_clips="results/extract_features/{dataset}-{class_set}/calibration.csv",
        frontend="results/extract_features/{dataset}-{class_set}/frontend.json",
    log:
        "logs/extract_features/{dataset}-{class_set}.log",
    wildcard_constraints:
        class_set="commands|digits",
    conda:
        "../envs/train.yaml"
    threads: 8
    params:
        python=python("train"),
        data=lambda wildcards, input: os.path.dirname(input.data[0]),
        folder=lambda wildcards, output: os.path.dirname(output.test),
        clips=config["quantization"]["calibration_clips"],
    message:
        "Log-mel features of all clips"
    shell:
        "{params.python} workflow/scripts/extract_features.py --data {params.data} "
        "--calibration-clips {params.clips} --threads {threads} --out {params.folder} > {log} 2>&1"
