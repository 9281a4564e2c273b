# Measuring. Every benchmark job takes every core, so that none overlaps another or anything else, and the rounds run
# one after the other with the engines interleaved. docs/measuring.md tells why.


rule benchmark:
    input:
        model=model_files,
        features=samples("test"),
        logits=lambda wildcards: trained(wildcards.network, "logits.npy", MEASURED_SEED),
        environment=lambda wildcards: environment(engine_environment(wildcards.engine)),
        code=lambda wildcards: sources("benchmark", "engine_worker", f"sparsemark/engines/{wildcards.engine}"),
    output:
        "results/benchmark/{data}/{network}/{precision}/{engine}/batch{batch_size}-cores{cores}/round{round}.json",
    log:
        "logs/benchmark/{data}/{network}/{precision}/{engine}/batch{batch_size}-cores{cores}/round{round}.log",
    priority: round_priority
    conda:
        lambda wildcards: f"../envs/{engine_environment(wildcards.engine)}.yaml"
    threads: EVERY_CORE
    params:
        python=lambda wildcards: python(engine_environment(wildcards.engine)),
        environment=lambda wildcards: environment_option(engine_environment(wildcards.engine)),
        model=model_option,
        seed=MEASURED_SEED,
        measuring=as_json(config["measuring"]),
    message:
        "Round {wildcards.round}: {wildcards.engine}, {wildcards.network} {wildcards.precision}, "
        "batch {wildcards.batch_size}, cores {wildcards.cores}"
    shell:
        "python workflow/scripts/benchmark.py --engine {wildcards.engine} --python {params.python} "
        "{params.environment} {params.model} --features {input.features} --reference {input.logits} "
        "--network {wildcards.network} --dataset {wildcards.data} --seed {params.seed} "
        "--precision {wildcards.precision} --batch-size {wildcards.batch_size} --cores {wildcards.cores} "
        "--round {wildcards.round} --measure {params.measuring:q} --out {output} > {log} 2>&1"


rule evaluate:
    input:
        model=model_files,
        features=samples("test"),
        logits=lambda wildcards: trained(wildcards.network, "logits.npy", wildcards.seed),
        environment=lambda wildcards: environment(engine_environment(wildcards.engine)),
        code=lambda wildcards: sources("evaluate", "engine_worker", f"sparsemark/engines/{wildcards.engine}"),
    output:
        "results/evaluate/{data}/{network}/{precision}/{engine}/seed{seed}.json",
    log:
        "logs/evaluate/{data}/{network}/{precision}/{engine}/seed{seed}.log",
    conda:
        lambda wildcards: f"../envs/{engine_environment(wildcards.engine)}.yaml"
    threads: 1
    params:
        python=lambda wildcards: python(engine_environment(wildcards.engine)),
        environment=lambda wildcards: environment_option(engine_environment(wildcards.engine)),
        model=model_option,
        timeout=config["measuring"]["timeout_s"],
    message:
        "Accuracy of {wildcards.network} {wildcards.precision} in {wildcards.engine}, seed {wildcards.seed}"
    shell:
        "python workflow/scripts/evaluate.py --engine {wildcards.engine} --python {params.python} "
        "{params.environment} {params.model} --features {input.features} --reference {input.logits} "
        "--network {wildcards.network} --dataset {wildcards.data} --seed {wildcards.seed} "
        "--precision {wildcards.precision} --timeout-s {params.timeout} --out {output} > {log} 2>&1"


rule collect_benchmarks:
    input:
        files=benchmark_files(),
        code=sources("collect_benchmarks"),
        schema="workflow/schemas/benchmarks.schema.yaml",
    output:
        "results/benchmarks.csv",
    log:
        "logs/collect_benchmarks.log",
    conda:
        "../envs/workflow.yaml"
    message:
        "Collecting every measured row"
    shell:
        "python workflow/scripts/collect_benchmarks.py --out {output} {input.files} > {log} 2>&1"


rule collect_accuracies:
    input:
        files=evaluation_files(),
        code=sources("collect_accuracies"),
    output:
        "results/accuracies.csv",
    log:
        "logs/collect_accuracies.log",
    conda:
        "../envs/workflow.yaml"
    message:
        "Collecting the accuracy of every artefact"
    shell:
        "python workflow/scripts/collect_accuracies.py --out {output} {input.files} > {log} 2>&1"


rule collect_networks:
    input:
        files=metrics_files(),
        code=sources("collect_networks"),
        schema="workflow/schemas/networks.schema.yaml",
    output:
        "results/networks.csv",
    log:
        "logs/collect_networks.log",
    conda:
        "../envs/workflow.yaml"
    message:
        "Collecting the networks' metrics"
    shell:
        "python workflow/scripts/collect_networks.py --out {output} {input.files} > {log} 2>&1"


rule ablate_quantization:
    input:
        model=f"results/export_onnx/{{data}}/{{network}}/seed{MEASURED_SEED}/batch64.onnx",
        calibration="results/extract_features/{data}/calibration.npz",
        features="results/extract_features/{data}/test.npz",
        environment=lambda wildcards: environment(engine_environment(wildcards.engine)),
        code=lambda wildcards: sources("ablate_quantization", "attempt", f"sparsemark/engines/{wildcards.engine}"),
    output:
        table="results/ablate_quantization/{data}/{network}/{engine}.csv",
        status="results/ablate_quantization/{data}/{network}/{engine}.csv.json",
    log:
        "logs/ablate_quantization/{data}/{network}/{engine}.log",
    conda:
        lambda wildcards: f"../envs/{engine_environment(wildcards.engine)}.yaml"
    threads: EVERY_CORE
    params:
        python=lambda wildcards: python(engine_environment(wildcards.engine)),
        environment=lambda wildcards: environment_option(engine_environment(wildcards.engine)),
        rounds=config["measuring"]["rounds"],
    message:
        "What quantising more or less does in {wildcards.engine}"
    shell:
        "python workflow/scripts/attempt.py {params.environment} --model {output.table} --status {output.status} -- "
        "{params.python} workflow/scripts/ablate_quantization.py --engine {wildcards.engine} --model {input.model} "
        "--calibration {input.calibration} --features {input.features} --network {wildcards.network} "
        "--rounds {params.rounds} --out {output.table} > {log} 2>&1"


rule profile_operators:
    input:
        model=model_files,
        features=samples("test"),
        environment=lambda wildcards: environment(engine_environment(wildcards.engine)),
        code=lambda wildcards: sources("profile_operators", "attempt", f"sparsemark/engines/{wildcards.engine}"),
    output:
        table="results/profile_operators/{data}/{network}/{precision}/{engine}.csv",
        status="results/profile_operators/{data}/{network}/{precision}/{engine}.csv.json",
    log:
        "logs/profile_operators/{data}/{network}/{precision}/{engine}.log",
    conda:
        lambda wildcards: f"../envs/{engine_environment(wildcards.engine)}.yaml"
    threads: EVERY_CORE
    params:
        python=lambda wildcards: python(engine_environment(wildcards.engine)),
        environment=lambda wildcards: environment_option(engine_environment(wildcards.engine)),
        model=model_option,
    message:
        "Time per operator of {wildcards.network} {wildcards.precision} in {wildcards.engine}"
    shell:
        "python workflow/scripts/attempt.py {params.environment} --model {output.table} --status {output.status} -- "
        "{params.python} workflow/scripts/profile_operators.py --engine {wildcards.engine} {params.model} "
        "--features {input.features} --network {wildcards.network} --precision {wildcards.precision} "
        "--batch-size 64 --out {output.table} > {log} 2>&1"
