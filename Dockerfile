# The daemon for hosts that run everything in containers.  First scripts/deb, then docker build -t agentcgroup .
#
#   docker run -d --name agentcgroup --restart always --privileged --pid host --cgroupns host --network host \
#     --memory 1g --pids-limit 256 \
#     -v /sys/fs/cgroup:/sys/fs/cgroup -v /run:/run -v /var/lib/agentcgroup:/var/lib/agentcgroup agentcgroup
#
# It governs the host's containers and sessions: it needs the host's cgroups, processes and BPF, hence --privileged, and
# /run for Docker's socket, systemd's bus and its own sockets.  Memory and processes have the bounds of configs/agentcgroup.service.
ARG BASE=debian:trixie-slim
FROM ${BASE}
COPY dist/agentcgroup_*.deb /tmp/
RUN dpkg -i /tmp/agentcgroup_*.deb \
 || (apt-get update && apt-get install -y --no-install-recommends -f && rm -rf /var/lib/apt/lists/*); \
    rm /tmp/agentcgroup_*.deb && agentcgroup --version
ENTRYPOINT ["agentcgroup", "daemon"]
