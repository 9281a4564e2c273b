# The study with its environments: docs/cluster.md tells how to build it and run it, also under Apptainer.
FROM docker.io/library/python:3.11-bookworm

COPY . /opt/sparsemark
WORKDIR /opt/sparsemark
# The image of this name brings the C++ compiler that torch.compile needs.
RUN make .venv/deployed.json && .venv/bin/python -m snakemake environments && rm -r .snakemake

# Jobs run as a user who has no home here.
ENV HOME=/tmp
# The study lies in the folder that is mounted here, and takes the environments of the image.
WORKDIR /study
ENTRYPOINT ["sh", "-c", "test -e .envs || ln -s /opt/sparsemark/.envs .envs; exec /opt/sparsemark/.venv/bin/python -m snakemake --snakefile /opt/sparsemark/Snakefile \"$@\"", "snakemake"]
