# The program and nothing else. A model directory is mounted at /model:
#   docker build -t casallm .
#   docker run -p 7860:7860 -v ./runs/quickstart/model:/model:ro -v casallm:/data -e CASALLM_API_KEY=... casallm
# The port is 7860, or what PORT says. Without CASALLM_API_KEY the server refuses to start, unless
# --public is added, and with it --ephemeral, or --db /data/everybodys.db for conversations that everybody shares.
FROM rust:1-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --locked --release --bin casallm

FROM debian:bookworm-slim
RUN useradd --uid 1000 --create-home casallm && mkdir /data && chown 1000:1000 /data
COPY --from=build /src/target/release/casallm /usr/local/bin/casallm
USER 1000
ENV XDG_DATA_HOME=/data PORT=7860
EXPOSE 7860
STOPSIGNAL SIGTERM
ENTRYPOINT ["casallm", "serve", "--host", "0.0.0.0", "--model", "/model"]
