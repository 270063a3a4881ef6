"""A reduced model of a registered architecture, built from a tree and stepped once: what `quantctl smoke` runs."""
