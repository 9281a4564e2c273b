# Networks: trained from initialisation, or pruned from a trained one.


rule check_networks:
    input:
        files=[file for network in NETWORKS for file in own_files(network)],
        environment=environment("train"),
    output:
        "results/check_networks.json",
    log:
        "logs/check_networks.log",
    # A wrong entry is found before the first training.
    priority: 100
    conda:
        "../envs/train.yaml"
    params:
        code=fingerprint(
            "check_networks",
            *(f"sparsemark/networks/architectures/{name}" for name in study.architectures(config)),
        ),
        deploy=deploy("train"),
        program=program("check_networks", "train"),
        networks=as_json({name: study.training_spec(config, name) for name in NETWORKS}),
        files=as_json({name: network_file(name) for name in FROM_FILES}),
    message:
        "Checking the networks' layers"
    shell:
        "{params.deploy} {params.program} --networks {params.networks:q} --files {params.files:q} --out {output} "
        "2>&1 | tee {log}"


rule train:
    input:
        data=f"results/prepare_dataset/{DATA}/dataset.json",
        features=f"results/extract_features/{DATA}/test.npz",
        teacher=teacher_model,
        files=own_files_of,
        # Another network's entry is no reason to train this one again.
        checked=ancient(rules.check_networks.output),
        environment=environment("train"),
    output:
        expand(
            "results/train/{{data}}/{{network}}/seed{{seed}}/{file}",
            file=TRAINED_FILES,
        ),
    log:
        "logs/train/{data}/{network}/seed{seed}.log",
    conda:
        "../envs/train.yaml"
    threads: 8
    resources:
        mem_mb=DATA_MB,
    params:
        code=network_code("train"),
        deploy=deploy("train"),
        program=program("train", "train"),
        data=subpath(input.data, parent=True),
        features=subpath(input.features, parent=True),
        folder=subpath(output[0], parent=True),
        spec=training_spec,
        training=as_json(config["training"]),
        teacher=teacher_option,
    message:
        "Training {wildcards.network}, seed {wildcards.seed}"
    shell:
        "{params.deploy} {params.program} --data {params.data} --features {params.features} "
        "--network {wildcards.network} --spec {params.spec:q} --training {params.training:q} {params.teacher} "
        "--seed {wildcards.seed} --threads {threads} --out {params.folder} 2>&1 | tee {log}"


rule prune:
    input:
        data=f"results/prepare_dataset/{DATA}/dataset.json",
        features=f"results/extract_features/{DATA}/test.npz",
        start=start_model,
        teacher=teacher_model,
        files=own_files_of,
        # Another network's entry is no reason to train this one again.
        checked=ancient(rules.check_networks.output),
        environment=environment("train"),
    output:
        expand(
            "results/prune/{{data}}/{{network}}/seed{{seed}}/{file}",
            file=TRAINED_FILES,
        ),
    log:
        "logs/prune/{data}/{network}/seed{seed}.log",
    conda:
        "../envs/train.yaml"
    threads: 8
    resources:
        mem_mb=DATA_MB,
    params:
        code=network_code("prune"),
        deploy=deploy("train"),
        program=program("prune", "train"),
        data=subpath(input.data, parent=True),
        features=subpath(input.features, parent=True),
        folder=subpath(output[0], parent=True),
        spec=training_spec,
        training=as_json(config["training"]),
    message:
        "Pruning {wildcards.network}, seed {wildcards.seed}"
    shell:
        "{params.deploy} {params.program} --data {params.data} --features {params.features} "
        "--network {wildcards.network} --spec {params.spec:q} --training {params.training:q} "
        "--start {input.start} --teacher {input.teacher} --seed {wildcards.seed} --threads {threads} --out {params.folder} 2>&1 | tee {log}"
