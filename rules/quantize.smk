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
            code=sources(preparation, "attempt"),
        output:
            model=f"results/{preparation}/{{data}}/{{network}}/seed{{seed}}/batch{{batch_size}}.{form}",
            status=f"results/{preparation}/{{data}}/{{network}}/seed{{seed}}/batch{{batch_size}}.{form}.json",
        log:
            f"logs/{preparation}/{{data}}/{{network}}/seed{{seed}}/batch{{batch_size}}.log",
        conda:
            f"../envs/{tool}.yaml"
        # The tuner times its candidates, and DeepSparse's compiler is tried with every layout of threads.
        threads: EVERY_CORE if preparation in ("tune_tvm", "quantize_deepsparse") else 1
        params:
            environment=environment_option(tool),
            python=python(tool),
            # Bound here, because a shell command is put together when its job runs, after the loop.
            script=lambda wildcards, preparation=preparation: f"workflow/scripts/{preparation}.py",
            status=lambda wildcards, input: f"--input-status {input.model_status}" if input.model_status else "",
            options=lambda wildcards, input, options=options: options.format(input=input, wildcards=wildcards),
        message:
            f"{preparation}: {{wildcards.network}}, batch {{wildcards.batch_size}}"
        shell:
            "python workflow/scripts/attempt.py {params.environment} {params.status} --model {output.model} "
            "--status {output.status} -- {params.python} {params.script} --model {input.model} {params.options} "
            "--out {output.model} > {log} 2>&1"
