# Two-phase commit as psycopg2 and psycopg 3 do it: prepared on one node, found and ended on another.
import sys

one, two = sys.argv[1:3]


def run(module):
    name = module.__name__
    a, b = module.connect(one), module.connect(two)
    for i, end in enumerate(["commit", "rollback"]):
        x = a.xid(42, "gtrid %s" % name, "bqual-%d" % i)
        a.tpc_begin(x)
        a.cursor().execute("insert into xa values (%s, %s)", (name + end, i))
        a.tpc_prepare()
        a.reset() if hasattr(a, "reset") else a.close()
        a = module.connect(one)
        found = [y for y in b.tpc_recover() if y.gtrid == "gtrid " + name]
        assert [(y.format_id, y.bqual) for y in found] == [(42, "bqual-%d" % i)], found
        b.rollback()
        getattr(b, "tpc_" + end)(found[0])
        assert [y for y in b.tpc_recover() if y.gtrid == "gtrid " + name] == []
        b.rollback()
    # One phase, and a rollback before anything was prepared.
    a.tpc_begin(a.xid(1, name, "x"))
    a.cursor().execute("insert into xa values (%s, 7)", (name + "one phase",))
    a.tpc_commit()
    a.tpc_begin(a.xid(1, name, "x"))
    a.cursor().execute("insert into xa values (%s, 8)", (name + "never",))
    a.tpc_rollback()
    # The same name twice.
    a.tpc_begin(a.xid(1, name, "twice"))
    a.cursor().execute("insert into xa values (%s, 9)", (name + "twice",))
    a.tpc_prepare()
    b.tpc_begin(b.xid(1, name, "twice"))
    b.cursor().execute("insert into xa values (%s, 10)", (name + "second",))
    try:
        b.tpc_prepare()
        assert False
    except module.errors.DuplicateObject:
        pass
    a.tpc_commit()
    a.close(), b.close()


for module in sys.argv[3:]:
    run(__import__(module))
print("ok")
