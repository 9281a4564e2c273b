# Environments without conda: each file of envs/ becomes a virtual environment, by pip. With `--sdm conda`, Snakemake
# deploys the same files itself and no job of this file runs.


rule deploy_env:
    input:
        env_file="envs/{environment}.yaml",
        script="workflow/scripts/deploy_env.py",
    output:
        ".envs/{environment}-{hash}/deployed.json",
    log:
        "logs/deploy_env/{environment}-{hash}.log",
    wildcard_constraints:
        environment="[a-z0-9_]+",
        hash="[0-9a-f]{8}",
    conda:
        "../envs/workflow.yaml"
    params:
        prefix=lambda wildcards, output: os.path.dirname(output[0]),
        optional=lambda wildcards: ("" if wildcards.environment == "train" else "--optional"),
    message:
        "Installing envs/{wildcards.environment}.yaml"
    shell:
        "python {input.script} {input.env_file} {params.prefix} {params.optional} > {log} 2>&1"


rule environments:
    # Every environment at once: `snakemake environments`. The tests need them all.
    input:
        environment("train"),
        [environment(engine_environment(engine)) for engine in config["engines"]],
