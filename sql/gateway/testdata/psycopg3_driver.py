import sys
import psycopg

dsn = "host=127.0.0.1 port=%s user=postgres dbname=postgres" % sys.argv[1]
with psycopg.connect(dsn) as c:
    with c.cursor(binary=True) as cur:
        for i in range(8):  # from the sixth time on, it is a named statement
            cur.execute("insert into t values (%s, %s) returning id", (i, "a'b"))
            assert cur.fetchone() == (i,)
    c.commit()
    with c.pipeline() as p:
        for i in range(10, 500):
            c.execute("insert into t values (%s, %s)", (i, "x"))
        p.sync()
        n = c.execute("select count(*) from t")
        assert n.fetchone() == (498,)
    c.rollback()
    assert c.execute("select count(*) from t").fetchone() == (8,)
    c.commit()

    # What fails in a pipeline takes with it what follows up to its end, and nothing before it.
    c.autocommit = True
    try:
        with c.pipeline():
            with c.transaction():
                c.execute("insert into t values (100, 'lost')")
                c.execute("insert into t values (0, 'twice')")
        assert False
    except psycopg.errors.UniqueViolation:
        pass
    assert c.execute("select count(*) from t where id = 100").fetchone() == (0,)
    c.autocommit = False

    cur = c.cursor()
    with cur.copy("copy t from stdin (format binary)") as copy:
        copy.set_types(["int4", "text"])
        for i in range(1000, 3000):
            copy.write_row((i, "copied"))
    c.commit()
    with cur.copy("copy (select id from t where id >= 1000 order by id) to stdout") as copy:
        copy.set_types(["int4"])
        assert [r[0] for r in copy.rows()] == list(range(1000, 3000))
    c.commit()
    try:
        with cur.copy("copy t from stdin") as copy:
            copy.write("1\n")
        assert False
    except psycopg.errors.BadCopyFileFormat:
        c.rollback()
    with c.cursor("named", scrollable=True, withhold=True) as named:
        named.execute("select generate_series(1, 5000)")
        c.commit()
        assert named.fetchmany(10)[-1] == (10,)
        named.scroll(4000, mode="absolute")
        assert named.fetchone() == (4001,)
    with c.transaction():
        try:
            with c.transaction():
                c.execute("insert into t values (0, 'twice')")
        except psycopg.errors.UniqueViolation:
            pass
        c.execute("update t set v = 'y' where id = 0")
    c.commit()
    assert c.execute("select v from t where id = 0", prepare=True).fetchone() == ("y",)
    c.execute("insert into t values (9000, repeat('x', 1000000)) returning v")
    c.commit()
    c.autocommit = True
    heard = []
    c.add_notify_handler(lambda n: heard.append((n.channel, n.payload)))
    c.execute("listen heard")
    c.execute("notify heard, 'hello'")
    c.execute("select 1")
    assert heard == [("heard", "hello")], heard
print("ok")
