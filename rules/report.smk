# Figures, tables and the report. Nothing here is an input of a measurement: captions, colours and tables change
# without anything being measured again. The pages are listed in report/pages.yaml.

# What a complete study leaves, but for the table of how long that took.
STUDY = [
    "results/config.yaml",
    "results/networks.csv",
    "results/accuracies.csv",
    "results/benchmarks.csv",
    *(["results/claims.csv"] if TRAINED else []),
    "results/summary.rst",
    *map(page_file, PAGES),
]
RESULTS = [*STUDY, page_file("tabulate_time")]


rule resolve_config:
    output:
        "results/config.yaml",
    log:
        "logs/resolve_config.log",
    localrule: True
    conda:
        "../envs/workflow.yaml"
    params:
        code=fingerprint("resolve_config"),
        program=program("resolve_config"),
        # Compared is what it says. Its order differs between an overlay and a module, and is no reason to run again.
        content=as_json(config),
        config=config_in_order,
    message:
        "Keeping the configuration beside the results"
    shell:
        "{params.program} --config {params.config:q} --out {output} > {log} 2>&1"


rule check_claims:
    input:
        benchmarks="results/benchmarks.csv",
        networks="results/networks.csv",
        accuracies="results/accuracies.csv",
        config="results/config.yaml",
        ablation=ablation_files(),
    output:
        "results/claims.csv",
    log:
        "logs/check_claims.log",
    localrule: True
    conda:
        "../envs/workflow.yaml"
    params:
        code=fingerprint("check_claims", files=(PUBLISHED,)),
        program=program("check_claims"),
        published=resource(PUBLISHED),
    message:
        "Checking the study's claims"
    shell:
        "{params.program} --benchmarks {input.benchmarks} --networks {input.networks} "
        "--accuracies {input.accuracies} --config {input.config} --published {params.published} "
        "--ablation {input.ablation} --out {output} > {log} 2>&1"


rule summarize_study:
    input:
        benchmarks="results/benchmarks.csv",
        networks="results/networks.csv",
        accuracies="results/accuracies.csv",
        claims="results/claims.csv" if TRAINED else [],
    output:
        "results/summary.rst",
    log:
        "logs/summarize_study.log",
    localrule: True
    conda:
        "../envs/workflow.yaml"
    params:
        code=fingerprint("summarize_study"),
        program=program("summarize_study"),
        claims="--claims results/claims.csv" if TRAINED else "",
    message:
        "Summarising what was found"
    shell:
        "{params.program} --benchmarks {input.benchmarks} --networks {input.networks} "
        "--accuracies {input.accuracies} {params.claims} --out {output} > {log} 2>&1"


for page, entry in PAGES.items():

    rule:
        name:
            page
        input:
            page_tables(page),
        output:
            report(
                page_file(page),
                caption=f"../report/{page}.rst",
                category=entry["section"],
                labels={"page": entry["label"]},
            ),
        log:
            f"logs/{page}.log",
        localrule: True
        conda:
            "../envs/workflow.yaml"
        params:
            code=page_code(page),
            program=program(page),
            options=page_options(page),
        message:
            f"Page {page}"
        shell:
            "{params.program} {params.options} --out {output} > {log} 2>&1"


rule tabulate_time:
    input:
        STUDY,
        benchmarks="results/benchmarks.csv",
    output:
        report(
            page_file("tabulate_time"),
            caption="../report/tabulate_time.rst",
            category="8 How it was measured",
            labels={"page": "Where the time went"},
        ),
    log:
        "logs/tabulate_time.log",
    localrule: True
    conda:
        "../envs/workflow.yaml"
    params:
        code=fingerprint("tabulate_time"),
        program=program("tabulate_time"),
    message:
        "Where the time went"
    shell:
        "{params.program} --metadata .snakemake/metadata --benchmarks {input.benchmarks} --out {output} > {log} 2>&1"


rule report:
    input:
        RESULTS,
    output:
        "results/report.html",
    log:
        "logs/report.log",
    localrule: True
    conda:
        "../envs/workflow.yaml"
    params:
        code=fingerprint(files=report_files()),
        python=python_of_snakemake,
        snakefile=resource("Snakefile"),
        style=resource("report/report.css"),
        deployment=deployment,
    message:
        "Writing {output}"
    shell:
        "{params.python} -m snakemake --snakefile {params.snakefile} --report {output} "
        "--report-stylesheet {params.style} --configfile results/config.yaml --replace-workflow-config --nolock "
        "{params.deployment} > {log} 2>&1"
