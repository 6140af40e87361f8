import asyncio, sys
import asyncpg


async def main():
    c = await asyncpg.connect(host="127.0.0.1", port=int(sys.argv[1]), user="postgres", database="postgres", ssl=False)
    for i in range(5):
        assert await c.fetchval("insert into t values ($1, $2) returning id", i, "x") == i
    await c.executemany("insert into t values ($1, $2)", [(i, "many") for i in range(10, 400)])
    assert await c.fetchval("select count(*) from t") == 395
    try:  # one failure undoes all of an executemany
        await c.executemany("insert into t values ($1, $2)", [(1000, "lost"), (0, "twice")])
        assert False
    except asyncpg.UniqueViolationError:
        assert await c.fetchval("select count(*) from t where id = 1000") == 0
    async with c.transaction(isolation="repeatable_read"):
        try:
            async with c.transaction():
                await c.execute("insert into t values (0, 'twice')")
        except asyncpg.UniqueViolationError:
            pass
        await c.execute("update t set v = $1 where id = $2", "y", 0)
    assert await c.fetchval("select v from t where id = 0") == "y"
    async with c.transaction():
        got = 0
        async for r in c.cursor("select generate_series(1, 5000) as n", prefetch=100):
            got += 1
            assert r["n"] == got
        assert got == 5000
        cur = await c.cursor("select generate_series(1, 5000)")
        assert (await cur.fetchrow())[0] == 1
        assert await cur.forward(10) == 10
        assert (await cur.fetch(2))[1][0] == 13
    assert await c.copy_records_to_table("t", records=[(i, "copied") for i in range(2000, 4000)]) == "COPY 2000"
    out = bytearray()

    async def take(b):
        out.extend(b)

    assert await c.copy_from_query("select id from t where id >= $1 order by id", 2000, output=take) == "COPY 2000"
    assert out.split() == [str(i).encode() for i in range(2000, 4000)]
    # A cached statement whose result has changed is planned anew.
    st = await c.prepare("select * from t where id = $1")
    assert len(await st.fetchrow(0)) == 2
    await c.execute("create table cached (a int)")
    await c.fetch("select * from cached")
    await c.execute("alter table cached add b int")
    assert [a.name for a in (await c.prepare("select * from cached")).get_attributes()] == ["a", "b"]
    await c.execute("drop table cached; select 1")
    try:
        async with c.transaction(readonly=True):
            await c.execute("delete from t")
        assert False
    except asyncpg.ReadOnlySQLTransactionError:
        pass
    heard = asyncio.get_running_loop().create_future()
    await c.add_listener("heard", lambda conn, pid, channel, payload: heard.set_result(payload))
    await c.execute("notify heard, 'hello'")
    assert await heard == "hello"
    await c.reset()
    try:
        await c.fetch("select pg_sleep(60)", timeout=0.2)
        assert False
    except asyncio.TimeoutError:
        assert await c.fetchval("select 1") == 1
    await c.close()
    print("ok")


asyncio.run(main())
