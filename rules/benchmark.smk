# Measuring. Every benchmark job takes every core, so that none overlaps another or anything else, and comes after the jobs
# that are none. Each takes turns with the reference by itself: a new case is one job. docs/measuring.md tells why.


rule benchmark:
    input:
        model=model_files,
        features=samples("test"),
        logits=measured_logits,
        environment=environment(engine_environment),
        reference_model=reference_model(),
        reference_features=samples_of(DENSE, "test"),
        reference_logits=trained(DENSE, "logits.npy", MEASURED_SEED),
        reference_environment=environment(REFERENCE_ENVIRONMENT),
        base_model=reference_model(reference.BASE[0]),
    output:
        "results/benchmark/{data}/{network}/{precision}/{engine}/batch{batch_size}-cores{cores}.json",
    log:
        "logs/benchmark/{data}/{network}/{precision}/{engine}/batch{batch_size}-cores{cores}.log",
    priority: -1
    conda:
        conda_file
    threads: EVERY_CORE
    params:
        code=engine_code("benchmark", "engine_worker", beside=[reference.ENGINE]),
        deploy=deploy(engine_environment, REFERENCE_ENVIRONMENT),
        program=program("benchmark"),
        python=interpreter(engine_environment),
        environment=environment_status(engine_environment),
        model=model_option,
        seed=MEASURED_SEED,
        reference_python=reference_python,
        measuring=as_json(config["measuring"]),
    message:
        "Measuring {wildcards.engine}, {wildcards.network} {wildcards.precision}, "
        "batch {wildcards.batch_size}, cores {wildcards.cores}"
    shell:
        "{params.deploy} {params.program} --engine {wildcards.engine} --python {params.python} "
        "{params.environment} {params.model} --features {input.features} --logits {input.logits} "
        "--network {wildcards.network} --dataset {wildcards.data} --seed {params.seed} "
        "--precision {wildcards.precision} --batch-size {wildcards.batch_size} --cores {wildcards.cores} "
        "--max-cores {threads} --reference-python {params.reference_python} --reference-model {input.reference_model} "
        "--reference-features {input.reference_features} --reference-logits {input.reference_logits} "
        "--base-model {input.base_model} "
        "--measure {params.measuring:q} --out {output} > {log} 2>&1"


rule evaluate:
    input:
        model=model_files,
        features=samples("test"),
        logits=reference_logits,
        environment=environment(engine_environment),
    output:
        "results/evaluate/{data}/{network}/{precision}/{engine}/seed{seed}.json",
    log:
        "logs/evaluate/{data}/{network}/{precision}/{engine}/seed{seed}.log",
    conda:
        conda_file
    threads: 1
    params:
        code=engine_code("evaluate", "engine_worker"),
        deploy=deploy(engine_environment),
        program=program("evaluate"),
        python=interpreter(engine_environment),
        environment=environment_status(engine_environment),
        model=model_option,
        batch_size=evaluated_batch,
        timeout=config["measuring"]["timeout_s"],
    message:
        "Accuracy of {wildcards.network} {wildcards.precision} in {wildcards.engine}, seed {wildcards.seed}"
    shell:
        "{params.deploy} {params.program} --engine {wildcards.engine} --python {params.python} "
        "{params.environment} {params.model} --features {input.features} --logits {input.logits} "
        "--network {wildcards.network} --dataset {wildcards.data} --seed {wildcards.seed} "
        "--precision {wildcards.precision} --batch-size {params.batch_size} --timeout-s {params.timeout} "
        "--out {output} > {log} 2>&1"


rule collect_benchmarks:
    input:
        files=benchmark_files(),
    output:
        "results/benchmarks.csv",
    log:
        "logs/collect_benchmarks.log",
    localrule: True
    conda:
        "../envs/workflow.yaml"
    params:
        code=fingerprint("collect_benchmarks", files=("workflow/schemas/benchmarks.schema.yaml",)),
        program=program("collect_benchmarks"),
    message:
        "Collecting every measured row"
    shell:
        "{params.program} --out {output} {input.files} > {log} 2>&1"


rule collect_accuracies:
    input:
        files=evaluation_files(),
    output:
        "results/accuracies.csv",
    log:
        "logs/collect_accuracies.log",
    localrule: True
    conda:
        "../envs/workflow.yaml"
    params:
        code=fingerprint("collect_accuracies"),
        program=program("collect_accuracies"),
    message:
        "Collecting the accuracy of every artefact"
    shell:
        "{params.program} --out {output} {input.files} > {log} 2>&1"


rule collect_networks:
    input:
        files=metrics_files(),
    output:
        "results/networks.csv",
    log:
        "logs/collect_networks.log",
    localrule: True
    conda:
        "../envs/workflow.yaml"
    params:
        code=fingerprint("collect_networks", files=("workflow/schemas/networks.schema.yaml",)),
        program=program("collect_networks"),
    message:
        "Collecting the networks' metrics"
    shell:
        "{params.program} --out {output} {input.files} > {log} 2>&1"


rule ablate_quantization:
    input:
        model=f"results/export_onnx/{{data}}/{{network}}/seed{MEASURED_SEED}/batch64.onnx",
        calibration="results/extract_features/{data}/calibration.npz",
        features="results/extract_features/{data}/test.npz",
        environment=environment(engine_environment),
    output:
        table="results/ablate_quantization/{data}/{network}/{engine}.csv",
        status="results/ablate_quantization/{data}/{network}/{engine}.csv.json",
    log:
        "logs/ablate_quantization/{data}/{network}/{engine}.log",
    conda:
        conda_file
    threads: EVERY_CORE
    params:
        code=engine_code("ablate_quantization", "attempt"),
        deploy=deploy(engine_environment),
        attempt=program("attempt"),
        program=program("ablate_quantization", engine_environment),
        environment=environment_status(engine_environment),
    message:
        "What quantising more or less does in {wildcards.engine}"
    shell:
        "{params.deploy} {params.attempt} {params.environment} --model {output.table} --status {output.status} -- "
        "{params.program} --engine {wildcards.engine} --model {input.model} "
        "--calibration {input.calibration} --features {input.features} --network {wildcards.network} "
        "--out {output.table} > {log} 2>&1"


rule profile_operators:
    input:
        model=model_files,
        features="results/extract_features/{data}/test.npz",
        environment=environment(engine_environment),
    output:
        table="results/profile_operators/{data}/{network}/{precision}/{engine}.csv",
        status="results/profile_operators/{data}/{network}/{precision}/{engine}.csv.json",
    log:
        "logs/profile_operators/{data}/{network}/{precision}/{engine}.log",
    conda:
        conda_file
    threads: EVERY_CORE
    params:
        code=engine_code("profile_operators", "attempt"),
        deploy=deploy(engine_environment),
        attempt=program("attempt"),
        program=program("profile_operators", engine_environment),
        environment=environment_status(engine_environment),
        model=model_option,
    message:
        "Time per operator of {wildcards.network} {wildcards.precision} in {wildcards.engine}"
    shell:
        "{params.deploy} {params.attempt} {params.environment} --model {output.table} --status {output.status} -- "
        "{params.program} --engine {wildcards.engine} {params.model} "
        "--features {input.features} --network {wildcards.network} --precision {wildcards.precision} "
        "--batch-size 64 --out {output.table} > {log} 2>&1"
