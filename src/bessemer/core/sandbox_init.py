"""The first program inside the sandbox: sets the limits, runs the other one, says how it ended.

Its text is handed to a bare interpreter (`sandbox` does that), so it imports nothing of the house.
It writes one line when it has started and one with the seconds of processor time at the end.

    argv: descriptor to write to, program, processes, then limits as in `NAMES`
"""

import os
import resource
import sys

OUT_OF_MEMORY = 99  # exit code after a MemoryError that nothing caught
DESCRIPTORS = 32
PACKAGES = "/packages"  # what may be imported beside the standard library, if anything
NAMES = ("RLIMIT_CPU", "RLIMIT_AS", "RLIMIT_FSIZE", "RLIMIT_NPROC")


def main(report: int, program: str, limits: list[int]) -> None:
    """Fork; the child becomes the program, the parent waits for it and exits as it did."""
    os.write(report, b"started\n")
    child = os.fork()
    if child == 0:
        os.close(report)
        _limit(limits)
        _run(program)
        return
    _, status, usage = os.wait4(child, 0)
    os.write(report, f"{usage.ru_utime + usage.ru_stime:.6f}\n".encode())
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)


def _limit(limits: list[int]) -> None:
    for name, value in zip(NAMES, limits, strict=True):
        # A process that ignores SIGXCPU is killed a second later.
        hard = value + 1 if name == "RLIMIT_CPU" else value
        resource.setrlimit(getattr(resource, name), (value, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))


def _run(program: str) -> None:
    import builtins

    vars(builtins).update(exit=sys.exit, quit=sys.exit)  # as `site` would, which does not run here
    module = sys.modules["__main__"] = type(sys)("__main__")
    module.__file__ = program
    sys.argv[:] = [program]
    if os.path.isdir(PACKAGES):  # noqa: PTH112 - as below
        sys.path.append(PACKAGES)
    with open(program, "rb") as file:  # noqa: PTH123 - pathlib takes milliseconds to import
        source = file.read()
    try:
        exec(compile(source, program, "exec"), vars(module))
    except MemoryError:
        sys.exit(OUT_OF_MEMORY)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], [int(value) for value in sys.argv[3:]])
