# Figures, tables and the report. Nothing here is an input of a measurement: captions, colours and tables change
# without anything being measured again.


rule resolve_config:
    input:
        code=sources("resolve_config"),
    output:
        "results/config.yaml",
    log:
        "logs/resolve_config.log",
    conda:
        "../envs/workflow.yaml"
    params:
        config=as_json(config),
    message:
        "Keeping the configuration beside the results"
    shell:
        "python workflow/scripts/resolve_config.py --config {params.config:q} --out {output} > {log} 2>&1"


rule report:
    input:
        rules.all.input,
        captions=captions(),
    output:
        "results/report.html",
    log:
        "logs/report.log",
    conda:
        "../envs/workflow.yaml"
    message:
        "Writing {output}"
    shell:
        "snakemake --report {output} --configfile results/config.yaml > {log} 2>&1"
