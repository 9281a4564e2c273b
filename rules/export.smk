# From a trained network to ONNX at a fixed batch size.


rule export_onnx:
    input:
        model=from_checkpoint,
        logits=reference_logits,
        features=f"results/extract_features/{DATA}/test.npz",
        environment=environment("train"),
    output:
        "results/export_onnx/{data}/{network}/seed{seed}/batch{batch_size}.onnx",
    log:
        "logs/export_onnx/{data}/{network}/seed{seed}/batch{batch_size}.log",
    conda:
        "../envs/train.yaml"
    params:
        code=fingerprint("export_onnx"),
        deploy=deploy("train"),
        program=program("export_onnx", "train"),
    message:
        "Exporting {wildcards.network}, batch {wildcards.batch_size}"
    shell:
        "{params.deploy} {params.program} --model {input.model} --batch-size {wildcards.batch_size} "
        "--features {input.features} --logits {input.logits} --out {output} > {log} 2>&1"
