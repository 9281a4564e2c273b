# Networks: trained from initialisation, or pruned from a trained one.


rule check_networks:
    input:
        networks=[file for network in NETWORKS for file in network_files(network)],
        environment=environment("train"),
        code=sources("check_networks"),
    output:
        "results/check_networks.json",
    log:
        "logs/check_networks.log",
    # A wrong entry is found before the first training.
    priority: 100
    conda:
        "../envs/train.yaml"
    params:
        python=python("train"),
        networks=as_json({name: study.training_spec(config, name) for name in NETWORKS}),
        files=as_json({name: network_file(name) for name in FROM_FILES}),
    message:
        "Checking the networks' layers"
    shell:
        "{params.python} workflow/scripts/check_networks.py --networks {params.networks:q} "
        "--files {params.files:q} --out {output} "
        "2>&1 | tee {log}"


rule train:
    input:
        data=f"results/prepare_dataset/{DATA}/dataset.json",
        features=f"results/extract_features/{DATA}/test.npz",
        teacher=teacher_model,
        # Another network's entry is no reason to train this one again.
        checked=ancient(rules.check_networks.output),
        network=lambda wildcards: study.network_code(config, wildcards.network),
        environment=environment("train"),
        code=sources("train"),
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
    params:
        python=python("train"),
        data=lambda wildcards, input: os.path.dirname(input.data),
        features=lambda wildcards, input: os.path.dirname(input.features),
        folder=lambda wildcards, output: os.path.dirname(output[0]),
        spec=lambda wildcards: as_json(study.training_spec(config, wildcards.network)),
        training=as_json(config["training"]),
        teacher=lambda wildcards, input: f"--teacher {input.teacher}" if input.teacher else "",
    message:
        "Training {wildcards.network}, seed {wildcards.seed}"
    shell:
        "{params.python} workflow/scripts/train.py --data {params.data} --features {params.features} "
        "--network {wildcards.network} --spec {params.spec:q} --training {params.training:q} {params.teacher} "
        "--seed {wildcards.seed} --threads {threads} --out {params.folder} 2>&1 | tee {log}"


rule prune:
    input:
        data=f"results/prepare_dataset/{DATA}/dataset.json",
        features=f"results/extract_features/{DATA}/test.npz",
        start=lambda wildcards: trained(config["networks"][wildcards.network]["start"], "model.pt", wildcards.seed),
        teacher=teacher_model,
        checked=ancient(rules.check_networks.output),
        network=lambda wildcards: study.network_code(config, wildcards.network),
        environment=environment("train"),
        code=sources("prune"),
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
    params:
        python=python("train"),
        data=lambda wildcards, input: os.path.dirname(input.data),
        features=lambda wildcards, input: os.path.dirname(input.features),
        folder=lambda wildcards, output: os.path.dirname(output[0]),
        spec=lambda wildcards: as_json(study.training_spec(config, wildcards.network)),
        training=as_json(config["training"]),
    message:
        "Pruning {wildcards.network}, seed {wildcards.seed}"
    shell:
        "{params.python} workflow/scripts/prune.py --data {params.data} --features {params.features} "
        "--network {wildcards.network} --spec {params.spec:q} --training {params.training:q} "
        "--start {input.start} --teacher {input.teacher} --seed {wildcards.seed} --threads {threads} --out {params.folder} 2>&1 | tee {log}"
