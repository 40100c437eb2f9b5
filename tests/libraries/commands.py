"""What programs do with Python's client to run commands in the pod that is named, whose image has a
shell, in the cluster of the kubeconfig that is named first."""

import sys

from kubernetes import client, config
from kubernetes.stream import stream

# No command takes longer, in seconds.
LIMIT = 60


def main():
    config.load_kube_config(sys.argv[1])
    core = client.CoreV1Api()

    def run(*command, **options):
        return stream(core.connect_get_namespaced_pod_exec, sys.argv[2], "default",
                      command=list(command), stdout=True, stderr=True, tty=False, **options)

    assert run("echo", "out", stdin=False) == "out\n"
    shell = run("sh", stdin=True, _preload_content=False)
    shell.write_stdin("echo out; echo err >&2; exit 3\n")
    shell.run_forever(timeout=LIMIT)
    assert (shell.read_stdout(), shell.read_stderr()) == ("out\n", "err\n")
    assert shell.returncode == 3, shell.returncode
    print("python: all is well")


main()
