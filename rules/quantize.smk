# INT8 networks, each by the engine's own tool, calibrated on training clips. A tool that fails leaves an empty model
# and the reason beside it: the engine's rows show it, and the study goes on.


rule quantize_onnxruntime:
    input:
        model=rules.export_onnx.output,
        calibration="results/extract_features/{data}/calibration.npz",
        environment=environment("onnxruntime"),
        code=sources("quantize_onnxruntime", "attempt"),
    output:
        model="results/quantize_onnxruntime/{data}/{network}/seed{seed}/batch{batch_size}.onnx",
        status="results/quantize_onnxruntime/{data}/{network}/seed{seed}/batch{batch_size}.onnx.json",
    log:
        "logs/quantize_onnxruntime/{data}/{network}/seed{seed}/batch{batch_size}.log",
    conda:
        "../envs/onnxruntime.yaml"
    params:
        python=python("onnxruntime"),
        attempt=attempt("onnxruntime"),
    message:
        "Quantising {wildcards.network}, batch {wildcards.batch_size}, with ONNX Runtime"
    shell:
        "{params.attempt} --model {output.model} --status {output.status} -- "
        "{params.python} workflow/scripts/quantize_onnxruntime.py --model {input.model} "
        "--calibration {input.calibration} --out {output.model} > {log} 2>&1"


rule quantize_openvino:
    input:
        model=rules.export_onnx.output,
        calibration="results/extract_features/{data}/calibration.npz",
        environment=environment("openvino"),
        code=sources("quantize_openvino", "attempt"),
    output:
        model="results/quantize_openvino/{data}/{network}/seed{seed}/batch{batch_size}.onnx",
        status="results/quantize_openvino/{data}/{network}/seed{seed}/batch{batch_size}.onnx.json",
    log:
        "logs/quantize_openvino/{data}/{network}/seed{seed}/batch{batch_size}.log",
    conda:
        "../envs/openvino.yaml"
    params:
        python=python("openvino"),
        attempt=attempt("openvino"),
    message:
        "Quantising {wildcards.network}, batch {wildcards.batch_size}, with OpenVINO's NNCF"
    shell:
        "{params.attempt} --model {output.model} --status {output.status} -- "
        "{params.python} workflow/scripts/quantize_openvino.py --model {input.model} "
        "--calibration {input.calibration} --out {output.model} > {log} 2>&1"
