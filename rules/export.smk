# From a trained network to ONNX at a fixed batch size.


rule export_onnx:
    input:
        model=lambda wildcards: trained(wildcards.network, "model.pt", wildcards.seed),
        logits=lambda wildcards: trained(wildcards.network, "logits.npy", wildcards.seed),
        features=f"results/extract_features/{DATA}/test.npz",
        environment=environment("train"),
        code=sources("export_onnx"),
    output:
        "results/export_onnx/{data}/{network}/seed{seed}/batch{batch_size}.onnx",
    log:
        "logs/export_onnx/{data}/{network}/seed{seed}/batch{batch_size}.log",
    conda:
        "../envs/train.yaml"
    params:
        python=python("train"),
    message:
        "Exporting {wildcards.network}, batch {wildcards.batch_size}"
    shell:
        "{params.python} workflow/scripts/export_onnx.py --model {input.model} --batch-size {wildcards.batch_size} "
        "--features {input.features} --logits {input.logits} --out {output} > {log} 2>&1"
