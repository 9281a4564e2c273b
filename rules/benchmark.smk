# Measuring. Every benchmark job takes every core, so that none overlaps another or anything else, and comes after the jobs
# that are none. Each takes turns with the reference by itself: a new case is one job. docs/measuring.md tells why.


if CONDA:

    rule locate_reference:
        output:
            "results/locate_reference/python.txt",
        log:
            "logs/locate_reference.log",
        conda:
            f"../envs/{engine_environment(reference.ENGINE)}.yaml"
        message:
            "Finding the interpreter of the reference"
        shell:
            "python -c 'import sys; print(sys.executable)' > {output} 2> {log}"


rule benchmark:
    input:
        model=model_files,
        features=f"results/extract_features/{DATA}/test.npz",
        logits=lambda wildcards: trained(wildcards.network, "logits.npy", MEASURED_SEED),
        environment=lambda wildcards: environment(engine_environment(wildcards.engine)),
        reference_model=reference_model(),
        reference_logits=trained(DENSE, "logits.npy", MEASURED_SEED),
        reference_environment=reference_environment(),
        base_model=reference_model(reference.BASE[0]),
        code=lambda wildcards: sources(
            "benchmark",
            "engine_worker",
            f"sparsemark/engines/{wildcards.engine}",
            f"sparsemark/engines/{reference.ENGINE}",
        ),
    output:
        "results/benchmark/{data}/{network}/{precision}/{engine}/batch{batch_size}-cores{cores}.json",
    log:
        "logs/benchmark/{data}/{network}/{precision}/{engine}/batch{batch_size}-cores{cores}.log",
    priority: -1
    conda:
        lambda wildcards: f"../envs/{engine_environment(wildcards.engine)}.yaml"
    threads: EVERY_CORE
    params:
        python=lambda wildcards: python(engine_environment(wildcards.engine)),
        environment=lambda wildcards: environment_option(engine_environment(wildcards.engine)),
        model=model_option,
        seed=MEASURED_SEED,
        reference_python=reference_python(),
        measuring=as_json(config["measuring"]),
    message:
        "Measuring {wildcards.engine}, {wildcards.network} {wildcards.precision}, "
        "batch {wildcards.batch_size}, cores {wildcards.cores}"
    shell:
        "python workflow/scripts/benchmark.py --engine {wildcards.engine} --python {params.python} "
        "{params.environment} {params.model} --features {input.features} --logits {input.logits} "
        "--network {wildcards.network} --dataset {wildcards.data} --seed {params.seed} "
        "--precision {wildcards.precision} --batch-size {wildcards.batch_size} --cores {wildcards.cores} "
        "--reference-python {params.reference_python} --reference-model {input.reference_model} "
        "--reference-logits {input.reference_logits} --base-model {input.base_model} "
        "--measure {params.measuring:q} --out {output} > {log} 2>&1"


rule evaluate:
    input:
        model=model_files,
        features=f"results/extract_features/{DATA}/test.npz",
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
        "{params.environment} {params.model} --features {input.features} --logits {input.logits} "
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
    message:
        "What quantising more or less does in {wildcards.engine}"
    shell:
        "python workflow/scripts/attempt.py {params.environment} --model {output.table} --status {output.status} -- "
        "{params.python} workflow/scripts/ablate_quantization.py --engine {wildcards.engine} --model {input.model} "
        "--calibration {input.calibration} --features {input.features} --network {wildcards.network} "
        "--out {output.table} > {log} 2>&1"


rule profile_operators:
    input:
        model=model_files,
        features="results/extract_features/{data}/test.npz",
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
