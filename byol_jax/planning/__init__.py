"""What a run would need and take on a TPU slice, before one is paid for.

`chips` and `slices` say what there is to rent, `libtpu` finds the compiler,
`compilation` compiles the real step for a slice that is not there, `memory`
and `collectives` read what comes out, `ledger` gathers it, `programs` remembers
it, `floor` turns it into seconds, `search` looks for the largest batch that
fits, and `report` and `table` put it together.
"""
