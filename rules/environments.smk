# Environments. Each file of envs/ becomes a virtual environment in the working folder's .envs/, by pip; with `--sdm
# conda`, Snakemake deploys the same file itself, and what is left is to record it. How jobs name them: programs.smk.


rule deploy_env:
    output:
        "results/deploy_env/{environment}-{hash}.json",
    log:
        "logs/deploy_env/{environment}-{hash}.log",
    wildcard_constraints:
        environment="[a-z0-9_]+",
        hash="[0-9a-f]{8}",
    localrule: True
    conda:
        "../envs/{environment}.yaml"
    params:
        command=lambda wildcards, output: deploy_command(wildcards.environment),
    message:
        "Environment {wildcards.environment}"
    shell:
        "{params.command} --record {output} > {log} 2>&1"


rule environments:
    # Every environment at once: `snakemake environments`. The tests need them all.
    input:
        [environment(name) for name in ENVIRONMENTS],
    log:
        "logs/environments.log",
    localrule: True
    conda:
        "../envs/workflow.yaml"
    params:
        deploy=deploy(*ENVIRONMENTS),
    message:
        "Seeing to every environment"
    shell:
        "({params.deploy} true) > {log} 2>&1"
