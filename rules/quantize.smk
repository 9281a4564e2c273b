# Models in the form that an engine wants: quantised to INT8 by its own tool and calibrated on training clips, converted
# to its own format, or tuned for this CPU. A tool that fails leaves an empty model and the reason beside it: the
# engine's rows show it, and the study goes on.

CALIBRATED = "--calibration {input.calibration}"
# Rule, of the script's name: its environment, the form of the model, and the options of the script.
PREPARATIONS = {
    "quantize_onnxruntime": ("onnxruntime", "onnx", CALIBRATED),
    "quantize_qdq": ("onnxruntime", "onnx", CALIBRATED),
    "quantize_openvino": ("openvino", "onnx", CALIBRATED),
    "quantize_deepsparse": ("deepsparse", "onnx", CALIBRATED),
    "quantize_pytorch": (
        "pytorch",
        "pt2",
        f"{CALIBRATED} --batch-size {{wildcards.batch_size}}",
    ),
    "quantize_litert": ("litert", "tflite", CALIBRATED),
    "convert_litert": ("litert", "tflite", ""),
    "convert_mnn": ("mnn", "mnn", ""),
    "tune_tvm": (
        "tvm",
        "so",
        f"--trials {config['tuning']['tvm_trials']} --database results/cache/tune_tvm",
    ),
}

for preparation, (tool, form, options) in PREPARATIONS.items():

    rule:
        name:
            preparation
        input:
            model=from_checkpoint if tool == "pytorch" else exported,
            model_status=[] if tool == "pytorch" else exported_status,
            calibration=samples("calibration") if CALIBRATED in options else [],
            environment=environment(tool),
        output:
            model=f"results/{preparation}/{{data}}/{{network}}/seed{{seed}}/batch{{batch_size}}.{form}",
            status=f"results/{preparation}/{{data}}/{{network}}/seed{{seed}}/batch{{batch_size}}.{form}.json",
        log:
            f"logs/{preparation}/{{data}}/{{network}}/seed{{seed}}/batch{{batch_size}}.log",
        conda:
            f"../envs/{tool}.yaml"
        # The tuner times its candidates, and DeepSparse's compiler is tried with every layout of threads.
        threads: EVERY_CORE if preparation in ("tune_tvm", "quantize_deepsparse") else 1
        resources:
            # attempt.py ends a tool after an hour.
            runtime=70,
        params:
            code=fingerprint(preparation, "attempt"),
            deploy=deploy(tool),
            attempt=program("attempt"),
            program=program(preparation, tool),
            environment=environment_status(tool),
            status=input_status,
            options=options_of_tool(options),
        message:
            f"{preparation}: {{wildcards.network}}, batch {{wildcards.batch_size}}"
        shell:
            "{params.deploy} {params.attempt} {params.environment} {params.status} --model {output.model} "
            "--status {output.status} -- {params.program} --model {input.model} {params.options} "
            "--out {output.model} > {log} 2>&1"
