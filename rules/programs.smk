# What jobs run, and in which environment.
#
# Jobs run programs of the workflow's own folder. Where that lies, and which Python runs them, must not be a reason to run
# a job again. So the parameters made here are functions that ask for `output`: Snakemake takes those for derived from the
# job's files, and does not compare them with the last run's. Compared are the code (`fingerprint`, `engine_code`) and the
# environment file. An environment is named in two ways:
#
# - `environment(NAME)` is an input, the record that the environment was deployed. It is `ancient`, and its name has a hash
#   of the environment file: another file makes the job's results anew, another deployment of the same file does not.
# - `deploy(NAME)` is a parameter, the command that deploys the environment right before the job if it has gone since.
#
# NAME is a name of envs/, or a function that returns it for a job's wildcards.
import shlex


def here(path):
    """A path of the workflow's own folder as a word of a shell command; short, if we are in that folder."""
    path = Path(path)
    return shlex.quote(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))


PYTHON = "python" if CONDA else here(sys.executable)

if CONDA:
    # Snakemake itself keeps PYTHONPATH from conda's jobs; packages of ~/.local would come into installs, too.
    os.environ.update(PYTHONNOUSERSITE="1")

REFERENCE_ENVIRONMENT = study.engine_class(reference.ENGINE).environment
ENVIRONMENTS = ["train", *dict.fromkeys(study.engine_class(engine).environment for engine in study.engines(config))]


def engine_environment(wildcards):
    return study.engine_class(wildcards.engine).environment


def conda_file(wildcards):
    return f"../envs/{engine_environment(wildcards)}.yaml"


def environment(name):
    """The record of an environment's deployment, as an input."""

    def record(wildcards):
        return ancient(f"results/deploy_env/{Path(study.environment_prefix(chosen(name, wildcards))).name}.json")

    return record


def python_of_snakemake(wildcards, output):
    return PYTHON


def deploy_command(name):
    """The command that sees to an environment."""
    env_file = here(study.environment_file(name))
    command = f"{PYTHON} {here(study.SCRIPTS / 'deploy_env.py')} {env_file}"
    if CONDA:
        return command
    # Without its training environment there is no study; an engine that cannot be had is a row that says so.
    return f"{command} {study.environment_prefix(name)} --keep{'' if name == 'train' else ' --optional'}"


def deploy(*names):
    """What comes before a command that needs environments, as a parameter."""

    def commands(wildcards, output):
        return "" if CONDA else " ".join(f"{deploy_command(chosen(name, wildcards))} &&" for name in names)

    return commands


def interpreter(name):
    """An environment's interpreter, as a parameter."""

    def path(wildcards, output):
        return "python" if CONDA else f"{study.environment_prefix(chosen(name, wildcards))}/bin/python"

    return path


def isolated_python(name):
    """The command that starts an environment's interpreter without packages from elsewhere."""
    if CONDA:
        return "python"
    return f"env -u PYTHONPATH -u PYTHONHOME PYTHONNOUSERSITE=1 {study.environment_prefix(name)}/bin/python"


def environment_status(name):
    """The option that tells a program what became of an environment, as a parameter."""

    def option(wildcards, output):
        return (
            "" if CONDA else f"--environment-status {study.environment_prefix(chosen(name, wildcards))}/deployed.json"
        )

    return option


def resource(path):
    """A file of the workflow's own folder, as a parameter."""

    def word(wildcards, output):
        return here(study.ROOT / path)

    return word


def program(name, environment=None):
    """The command that runs a program of workflow/scripts/, as a parameter.

    `environment` is the environment that it runs in, or a function of the wildcards that returns it; None for that of
    Snakemake.
    """

    def command(wildcards, output):
        python = PYTHON if environment is None else isolated_python(chosen(environment, wildcards))
        return f"{python} {here(study.SCRIPTS / f'{name}.py')}"

    return command


def engine_code(*programs, beside=()):
    """The fingerprint of programs that load an engine's adapter, and those of the engines `beside`, as a parameter."""

    def code(wildcards):
        return fingerprint(*programs, *(f"sparsemark/engines/{name}" for name in (wildcards.engine, *beside)))

    return code


def chosen(environment, wildcards):
    return environment(wildcards) if callable(environment) else environment


def reference_python(wildcards, output):
    """The reference's interpreter, as a parameter. Of conda's environments, only that of the case itself is activated."""
    if not CONDA:
        return interpreter(REFERENCE_ENVIRONMENT)(wildcards, output)
    record = f"results/deploy_env/{Path(study.environment_prefix(REFERENCE_ENVIRONMENT)).name}.json"
    return f'$(python -c \'import json; print(json.load(open("{record}"))["python"])\')'
