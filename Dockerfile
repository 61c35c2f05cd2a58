# plasticity-env on the CPU: docker build -t plasticity-env . && docker run --rm plasticity-env doctor
FROM python:3.11-slim-bookworm
ARG EXTRAS=rl,track
WORKDIR /opt/plasticity-env
COPY . .
RUN python -m pip install --no-cache-dir --constraint constraints.txt ".[${EXTRAS}]" \
    --extra-index-url https://download.pytorch.org/whl/cpu
WORKDIR /work
ENTRYPOINT ["plasticity"]
CMD ["--help"]
