import io, sys
import psycopg2

dsn = "host=127.0.0.1 port=%s user=postgres dbname=postgres" % sys.argv[1]
c = psycopg2.connect(dsn)
cur = c.cursor()
cur.execute("insert into t values (%s, %s) returning id", (1, "a'b"))
assert cur.fetchone() == (1,)
c.commit()
cur.executemany("insert into t values (%s, %s)", [(i, "x") for i in range(2, 10)])
c.rollback()
cur.execute("select count(*) from t")
assert cur.fetchone() == (1,)
cur.copy_from(io.StringIO("20\ta\n21\tb\n"), "t")
c.commit()
try:
    cur.execute("insert into t values (20, 'x')")
    assert False
except psycopg2.errors.UniqueViolation:
    c.rollback()
named = c.cursor("named")
named.execute("select * from generate_series(1, 5000)")
assert len(named.fetchall()) == 5000
c.commit()
c.autocommit = True
cur.execute("update t set v = 'y'")
assert cur.rowcount == 3
cur.execute("select v from t where id = 1; select 2")
assert cur.fetchone() == (2,)
c.set_session(isolation_level="SERIALIZABLE", readonly=True, autocommit=False)
try:
    cur.execute("delete from t")
    assert False
except psycopg2.errors.ReadOnlySqlTransaction:
    c.rollback()
c.close()
print("ok")
