# From audio to the network's input.


rule download_dataset:
    input:
        # A wrong network is told before hours of downloads.
        checked=ancient("results/check_networks.json"),
    output:
        "data/download_dataset/{dataset}/{part}.tar.gz",
    log:
        "logs/download_dataset/{dataset}-{part}.log",
    wildcard_constraints:
        part="train|test",
    retries: 2
    localrule: True
    conda:
        "../envs/workflow.yaml"
    params:
        code=fingerprint("download_dataset"),
        program=program("download_dataset"),
        url=lookup("datasets/{dataset}/{part}/url", within=config),
        sha256=sha256_option,
    message:
        "Downloading {wildcards.dataset}, {wildcards.part} archive"
    shell:
        "{params.program} --url {params.url:q} {params.sha256} --out {output} " "2>&1 | tee {log}"


rule prepare_dataset:
    input:
        archives=archives,
        checked=ancient("results/check_networks.json"),
        environment=environment("train"),
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
        class_set="|".join(config["class_sets"]),
    conda:
        "../envs/train.yaml"
    threads: 8
    resources:
        mem_mb=DATA_MB,
    params:
        code=fingerprint("prepare_dataset"),
        deploy=deploy("train"),
        program=program("prepare_dataset", "train"),
        folder=subpath(output[0], parent=True),
        archives=archive_options,
        settings=dataset_settings,
        words=class_words,
    message:
        "Preparing the data set {wildcards.dataset}, class set {wildcards.class_set}"
    shell:
        "{params.deploy} {params.program} --dataset {wildcards.dataset} "
        "--class-set {wildcards.class_set} --words {params.words:q} --settings {params.settings:q} {params.archives} "
        "--threads {threads} --out {params.folder} 2>&1 | tee {log}"


rule extract_features:
    input:
        data=rules.prepare_dataset.output,
        environment=environment("train"),
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
        class_set="|".join(config["class_sets"]),
    conda:
        "../envs/train.yaml"
    threads: 8
    resources:
        mem_mb=DATA_MB,
    params:
        code=fingerprint("extract_features"),
        deploy=deploy("train"),
        program=program("extract_features", "train"),
        data=subpath(input[0], parent=True),
        folder=subpath(output.test, parent=True),
        clips=config["quantization"]["calibration_clips"],
    message:
        "Log-mel features of all clips"
    shell:
        "{params.deploy} {params.program} --data {params.data} "
        "--calibration-clips {params.clips} --threads {threads} --out {params.folder} > {log} 2>&1"
