from .avx512_vnni import dot, dot_exact, pack, pick, to_int

__all__ = ["dot", "dot_exact", "pack", "pick", "to_int"]
