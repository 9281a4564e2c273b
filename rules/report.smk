# Figures, tables and the report. Nothing here is an input of a measurement: captions, colours and tables change
# without anything being measured again.
#
# A figure's name is the name of its rule, of its script in workflow/scripts/ and of its caption in report/.

TABLES = {
    "benchmarks": "results/benchmarks.csv",
    "networks": "results/networks.csv",
    "accuracies": "results/accuracies.csv",
    "claims": "results/claims.csv",
    "config": "results/config.yaml",
    "published": "resources/fpga.csv",
    "ablation": ablation_files(),
    "profile": profile_files(),
}
OWN, GENERAL = "5 Networks from files", "7 Tables"
# Snakemake sorts the sections of a report by name, hence their numbers.
# Name: the section of the report, the label there, and the tables it is made from, which are its options, too.
PAGES = {
    "plot_figure1a_dense_batch1": (
        "1 Dense network",
        "Figure 1a: batch size 1",
        ["benchmarks", "networks"],
    ),
    "plot_figure1b_dense_batch64": (
        "1 Dense network",
        "Figure 1b: batch size 64",
        ["benchmarks", "networks"],
    ),
    "plot_figure2_batch_gain": (
        "1 Dense network",
        "Figure 2: gain of batch size 64",
        ["benchmarks", "networks"],
    ),
    "plot_figure3_dense_int8": (
        "2 Quantised network",
        "Figure 3: dense INT8",
        ["benchmarks", "networks", "published"],
    ),
    "plot_quantization": (
        "2 Quantised network",
        "What is quantised",
        ["benchmarks", "ablation"],
    ),
    "plot_operator_time": (
        "2 Quantised network",
        "Time per operator",
        ["benchmarks", "profile"],
    ),
    "tabulate_quantization": (
        "2 Quantised network",
        "What is quantised: table",
        ["benchmarks", "ablation"],
    ),
    "tabulate_operator_time": (
        "2 Quantised network",
        "Time per operator: table",
        ["benchmarks", "profile"],
    ),
    "plot_figure4_sparse_throughput": (
        "3 Sparse networks",
        "Figure 4: sparse throughput",
        ["benchmarks", "networks", "published", "accuracies"],
    ),
    "plot_figure5_sparse_gain": (
        "3 Sparse networks",
        "Figure 5: gain of sparsity",
        ["benchmarks", "networks", "published"],
    ),
    "plot_accuracy_sparsity": (
        "3 Sparse networks",
        "Accuracy against sparsity",
        ["networks", "config"],
    ),
    "plot_throughput_sparsity": (
        "3 Sparse networks",
        "Throughput against sparsity",
        ["benchmarks", "networks", "config"],
    ),
    "plot_pareto": (
        "3 Sparse networks",
        "Accuracy against throughput",
        ["benchmarks", "networks", "accuracies"],
    ),
    "plot_small_dense": (
        "3 Sparse networks",
        "Against smaller dense networks",
        ["benchmarks", "networks", "accuracies"],
    ),
    "plot_dualsparse_gain": (
        "4 dualsparse",
        "How its gain splits",
        ["benchmarks", "networks", "config", "accuracies"],
    ),
    "tabulate_dualsparse": (
        "4 dualsparse",
        "Against the other engines",
        ["benchmarks", "networks", "accuracies"],
    ),
    "plot_own_networks": (
        OWN,
        "Throughput",
        ["benchmarks", "networks"],
    ),
    "tabulate_claims": ("6 Claims", "The study's claims", ["claims"]),
    "tabulate_networks": ("7 Tables", "Networks", ["benchmarks", "networks", "config"]),
    "tabulate_accuracies": ("7 Tables", "Accuracies", ["networks", "accuracies"]),
    "tabulate_engines": ("7 Tables", "Engines: what really ran", ["benchmarks"]),
    "tabulate_benchmarks": (
        "7 Tables",
        "Every measurement",
        ["benchmarks", "networks", "accuracies"],
    ),
}
# Without a network that is trained, the study's own questions have no answers; without a file, that section has none.
SECTIONS = {page[0] for page in PAGES.values()} if TRAINED else {OWN, GENERAL}
SECTIONS -= set() if FROM_FILES else {OWN}
PAGES = {name: page for name, page in PAGES.items() if page[0] in SECTIONS}
# What a complete study leaves.
RESULTS = [
    "results/config.yaml",
    "results/networks.csv",
    "results/accuracies.csv",
    "results/benchmarks.csv",
    *(["results/claims.csv"] if TRAINED else []),
    "results/summary.rst",
    *map(page_file, PAGES),
]


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
        config=json.dumps(config),
    message:
        "Keeping the configuration beside the results"
    shell:
        "python workflow/scripts/resolve_config.py --config {params.config:q} --out {output} > {log} 2>&1"


rule check_claims:
    input:
        benchmarks="results/benchmarks.csv",
        networks="results/networks.csv",
        accuracies="results/accuracies.csv",
        config="results/config.yaml",
        published="resources/fpga.csv",
        ablation=ablation_files(),
        code=sources("check_claims"),
    output:
        "results/claims.csv",
    log:
        "logs/check_claims.log",
    conda:
        "../envs/workflow.yaml"
    message:
        "Checking the study's claims"
    shell:
        "python workflow/scripts/check_claims.py --benchmarks {input.benchmarks} --networks {input.networks} "
        "--accuracies {input.accuracies} --config {input.config} --published {input.published} "
        "--ablation {input.ablation} --out {output} > {log} 2>&1"


rule summarize_study:
    input:
        benchmarks="results/benchmarks.csv",
        networks="results/networks.csv",
        accuracies="results/accuracies.csv",
        claims="results/claims.csv" if TRAINED else [],
        code=sources("summarize_study"),
    output:
        "results/summary.rst",
    log:
        "logs/summarize_study.log",
    conda:
        "../envs/workflow.yaml"
    params:
        claims=lambda wildcards, input: f"--claims {input.claims}" if input.claims else "",
    message:
        "Summarising what was found"
    shell:
        "python workflow/scripts/summarize_study.py --benchmarks {input.benchmarks} --networks {input.networks} "
        "--accuracies {input.accuracies} {params.claims} --out {output} > {log} 2>&1"


for page, (section, label, tables) in PAGES.items():

    rule:
        name:
            page
        input:
            tables=[TABLES[table] for table in tables],
            code=sources(page),
        output:
            report(
                page_file(page),
                caption=f"../report/{page}.rst",
                category=section,
                labels={"page": label},
            ),
        log:
            f"logs/{page}.log",
        conda:
            "../envs/workflow.yaml"
        params:
            # Bound here, because a shell command is put together when its job runs, after the loop.
            script=lambda wildcards, page=page: f"workflow/scripts/{page}.py",
            options=table_options(tables),
        shell:
            "python {params.script} {params.options} --out {output} > {log} 2>&1"


rule report:
    input:
        RESULTS,
        captions=captions(),
        style="report/report.css",
    output:
        "results/report.html",
    log:
        "logs/report.log",
    conda:
        "../envs/workflow.yaml"
    message:
        "Writing {output}"
    shell:
        "snakemake --report {output} --report-stylesheet {input.style} --configfile results/config.yaml > {log} 2>&1"
