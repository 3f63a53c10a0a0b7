"""Types of the C++ core; the functions are bound in native/bindings.cpp."""

def cpu_features() -> frozenset[str]:
    """Return the instruction sets this process may use, in the spelling of /proc/cpuinfo.

    A name such as "avx512_vnni" or "asimddp" is there only if the processor and the operating system allow its use.
    On a processor with AMX the first call asks the operating system for the tile registers, for the whole process.
    """
