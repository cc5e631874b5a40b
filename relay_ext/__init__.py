"""The packet plane: everything that happens once per packet or per report, in Cython without the GIL.

Never imports `relay`. `docs/architecture.md` says how the modules fit together.
"""
