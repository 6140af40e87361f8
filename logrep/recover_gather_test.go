package logrep

import (
	"bytes"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// lockedBuffer is a log that may be read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) count(text string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Count(b.b.String(), text)
}

// recoverAll recovers all of it, in one go, and gives how often what was gathered failed.
func (p *pair) recoverAll(all []captured) (failed int) {
	p.t.Helper()
	log := &lockedBuffer{}
	p.b.cfg.Log = slog.New(slog.NewTextHandler(log, nil))
	at, err := RecoveredPosition(p.t.Context(), p.b.cfg)
	require.NoError(p.t, err)
	sink := newRecoverSink(p.t)
	r := NewRecoverer(p.b.cfg, sink)
	for i, c := range all {
		r.Apply(c.gid, at+uint64(i+1), c.p)
	}
	p.run(r.Run)
	sink.reach(at + uint64(len(all)))
	return log.count("one by one")
}

func TestManyRowsOfEveryTypeAreRecoveredAtOnce(t *testing.T) {
	defs, values := typeColumns()
	p := newPair(t, typeSetup, "CREATE TABLE ty (id int PRIMARY KEY, "+strings.Join(defs, ", ")+")")
	var sets []string
	for i, v := range values {
		sets = append(sets, fmt.Sprintf("c%d = %s", i, v))
	}
	all := []captured{
		p.committed("INSERT INTO ty SELECT g FROM generate_series(1, 200) g"),
		p.committed("UPDATE ty SET " + strings.Join(sets, ", ") + " WHERE id < 150"),
	}
	for i := range 20 {
		all = append(all, p.committed(fmt.Sprintf("UPDATE ty SET c0 = 1 WHERE id = %d", 150+i), fmt.Sprintf("UPDATE ty SET c0 = 2 WHERE id = %d", 145+i)))
	}
	all = append(all, p.committed("DELETE FROM ty WHERE id % 3 = 0"), p.committed("INSERT INTO ty (id) VALUES (3)"))
	require.Zero(t, p.recoverAll(all))
	require.Equal(t, 200-66+1, p.same("ty"))
}

// TestLargeTransactionsAreRecoveredTogether: in spill files, by COPY in several pieces; a row that is refused in the middle of one makes
// all of them go one by one.
func TestLargeTransactionsAreRecoveredTogether(t *testing.T) {
	p := newPair(t, "CREATE TABLE big (id int PRIMARY KEY, u int UNIQUE, v text)")
	var all []captured
	insert := func(from, to int) {
		all = append(all, p.committed(fmt.Sprintf("INSERT INTO big SELECT g, g, repeat(md5(g::text), 32) FROM generate_series(%d, %d) g", from, to)))
	}
	for i := range 4 {
		insert(1000*i+1, 1000*i+1000)
		require.NotEmpty(t, all[i].p.Spill)
	}
	jobs := make([]recoverJob, len(all))
	for i, c := range all {
		jobs[i] = recoverJob{gid: c.gid, at: uint64(i + 1), payload: c.p}
	}
	require.Len(t, (&Recoverer{queue: jobs}).next(groupTxns), 4)
	require.Zero(t, p.recoverAll(all))
	require.Equal(t, 4000, p.same("big"))
	// What is gathered deletes late and inserts early: u is not free yet.
	all = []captured{p.committed("UPDATE big SET u = -1 WHERE id = 1"), p.committed("INSERT INTO big SELECT g, CASE g WHEN 4500 THEN 1 ELSE g END, repeat('x', 1000) FROM generate_series(4001, 5000) g")}
	p.recoverAll(all)
	require.Equal(t, 5000, p.same("big"))
}

// TestGatheredChangesGiveTheSameRows: random changes of several tables, in many transactions.
func TestGatheredChangesGiveTheSameRows(t *testing.T) {
	p := newPair(t, `CREATE TABLE acc (id int PRIMARY KEY, v int, w text);
		CREATE TABLE log (id int, w text); ALTER TABLE log REPLICA IDENTITY FULL;
		CREATE TABLE two (a int, b text, v numeric, PRIMARY KEY (b, a));
		CREATE TABLE late (id int PRIMARY KEY, u int UNIQUE DEFERRABLE INITIALLY DEFERRED);
		UPDATE pg_trigger SET tgenabled = 'A' WHERE tgrelid = 'late'::regclass;
		CREATE TABLE seen (id int PRIMARY KEY, n int);
		CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.n := (SELECT sum(v) FROM public.acc); RETURN NEW; END';
		CREATE TRIGGER see BEFORE INSERT ON seen FOR EACH ROW EXECUTE FUNCTION see(); ALTER TABLE seen ENABLE ALWAYS TRIGGER see`)
	rng := rand.New(rand.NewPCG(7, 9))
	tables := []string{"acc", "log", "two", "late", "seen"}
	next := 0
	one := func() string {
		next++
		k := rng.IntN(60)
		switch rng.IntN(14) {
		case 0, 1:
			return fmt.Sprintf("INSERT INTO acc VALUES (%d, %d, repeat('x', %d)) ON CONFLICT DO NOTHING", k, next, rng.IntN(9000))
		case 2, 3, 4:
			return fmt.Sprintf("UPDATE acc SET v = %d WHERE id = %d", next, k)
		case 5:
			return fmt.Sprintf("UPDATE acc SET v = v + 1, w = 'short' WHERE id BETWEEN %d AND %d", k, k+20)
		case 6:
			return fmt.Sprintf("DELETE FROM acc WHERE id = %d", k)
		case 7:
			return fmt.Sprintf("UPDATE acc SET id = %d WHERE id = %d AND NOT EXISTS (SELECT FROM acc WHERE id = %d)", k+1, k, k+1)
		case 8:
			return fmt.Sprintf("INSERT INTO log SELECT g, 'w%d' FROM generate_series(1, %d) g", k, 1+rng.IntN(80))
		case 9:
			return fmt.Sprintf("DELETE FROM log WHERE id = %d; UPDATE log SET w = 'new' WHERE id = %d", k, k+1)
		case 10:
			return fmt.Sprintf("INSERT INTO two VALUES (%d, E'q\\'%d', 1.50) ON CONFLICT (b, a) DO UPDATE SET v = two.v + 1.00", k, k%5)
		case 11:
			return fmt.Sprintf("DELETE FROM two WHERE a = %d; UPDATE two SET v = NULL WHERE b = E'q\\'%d'", k, k%5)
		case 12:
			return fmt.Sprintf("INSERT INTO seen VALUES (%d)", next)
		}
		return fmt.Sprintf("INSERT INTO late VALUES (%d, %d00000); UPDATE late SET u = u + 1", next, next)
	}
	for range 4 {
		var all []captured
		for range 60 {
			sql := []string{"SELECT pg_logical_emit_message(true, 'mtm', '')", one()} // it may change nothing
			for rng.IntN(3) > 0 {
				sql = append(sql, one())
			}
			all = append(all, p.committed(sql...))
		}
		require.Zero(t, p.recoverAll(all))
		p.same(tables...)
	}
	require.Positive(t, p.same("acc"))
	require.Positive(t, p.same("seen"))
}

// TestGatheredChangesOfOddTablesGiveTheSameRows: rows that move between partitions, keys that come and go, columns that are computed,
// identity columns, keys of other types, TRUNCATE in between.
func TestGatheredChangesOfOddTablesGiveTheSameRows(t *testing.T) {
	p := newPair(t, `CREATE TABLE part (id int, r int, v text, PRIMARY KEY (id, r)) PARTITION BY LIST (r);
		CREATE TABLE part0 PARTITION OF part FOR VALUES IN (0); CREATE TABLE part1 (v text, r int NOT NULL, id int NOT NULL);
		ALTER TABLE part ATTACH PARTITION part1 FOR VALUES IN (1); CREATE TABLE part2 PARTITION OF part DEFAULT;
		CREATE TABLE gen (id int PRIMARY KEY, n int, d int GENERATED ALWAYS AS (n * 2) STORED, s int GENERATED ALWAYS AS IDENTITY);
		CREATE TABLE idx (a text NOT NULL, b int, c bit(3), e char(4), f numeric(6,2)); CREATE UNIQUE INDEX idx_a ON idx (a); ALTER TABLE idx REPLICA IDENTITY USING INDEX idx_a;
		CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
		CREATE TABLE nc (k text COLLATE nocase PRIMARY KEY, v int);
		CREATE TABLE num (k numeric PRIMARY KEY, v float8, w timestamptz);
		CREATE TABLE keyed (id int PRIMARY KEY, u int UNIQUE, v int);
		CREATE TABLE kid (id int PRIMARY KEY, p int REFERENCES keyed ON DELETE CASCADE ON UPDATE CASCADE);
		CREATE TABLE heir (LIKE keyed INCLUDING ALL); ALTER TABLE heir INHERIT keyed;
		CREATE TABLE dup (a int, b text); ALTER TABLE dup REPLICA IDENTITY FULL;
		CREATE TABLE fl (k float8 PRIMARY KEY, v int)`)
	rng := rand.New(rand.NewPCG(11, 2))
	tables := []string{"part", "gen", "idx", "nc", "num", "ONLY keyed", "kid", "heir", "dup", "fl"}
	next := 0
	one := func() string {
		next++
		k, r := rng.IntN(12), rng.IntN(4)
		switch rng.IntN(24) {
		case 0, 1:
			return fmt.Sprintf("INSERT INTO part SELECT g, %d, 'p%d' FROM generate_series(%d, %d) g ON CONFLICT DO NOTHING", r, next, k, k+rng.IntN(90))
		case 2, 3:
			return fmt.Sprintf("UPDATE part SET r = %d, v = v || 'x' WHERE id = %d AND r = %d AND NOT EXISTS (SELECT FROM part WHERE id = %d AND r = %d)", r, k, (r+1)%4, k, r)
		case 4:
			return fmt.Sprintf("DELETE FROM part WHERE id = %d", k)
		case 5:
			return fmt.Sprintf("TRUNCATE %s", []string{"part", "part1", "dup", "kid", "gen, nc"}[rng.IntN(5)])
		case 6, 7:
			return fmt.Sprintf("INSERT INTO gen (id, n) VALUES (%d, %d) ON CONFLICT (id) DO UPDATE SET n = gen.n + 1", k, next)
		case 8:
			return fmt.Sprintf("DELETE FROM gen WHERE id = %d; UPDATE gen SET n = NULL WHERE id = %d", k, k+1)
		case 9, 10:
			return fmt.Sprintf("INSERT INTO idx VALUES ('k%d', %d, B'101', 'ab', 1.5) ON CONFLICT (a) DO UPDATE SET b = %d, c = B'010', e = 'c', f = 2", k, next, next)
		case 11:
			return fmt.Sprintf("UPDATE idx SET a = a || 'z' WHERE a = 'k%d' AND NOT EXISTS (SELECT FROM idx WHERE a = 'k%dz'); DELETE FROM idx WHERE a = 'k%dz'", k, k, k+1)
		case 12:
			return fmt.Sprintf("INSERT INTO nc VALUES ('Key%d', %d) ON CONFLICT (k) DO UPDATE SET v = %d", k, next, next)
		case 13:
			return fmt.Sprintf("UPDATE nc SET k = upper(k::text COLLATE \"C\") WHERE k = 'key%d'; UPDATE nc SET v = v + 1 WHERE k = 'kEY%d'", k, k)
		case 14:
			return fmt.Sprintf("DELETE FROM nc WHERE k = 'kEY%d'", k)
		case 15:
			return fmt.Sprintf("INSERT INTO num VALUES (%d.0, 'NaN', 'infinity') ON CONFLICT (k) DO UPDATE SET v = %d.1, w = now()", k, next)
		case 16:
			return fmt.Sprintf("UPDATE num SET k = %d.00 WHERE k = %d; UPDATE num SET v = '-0' WHERE k = %d", k, k, k)
		case 17:
			return fmt.Sprintf("INSERT INTO keyed VALUES (%d, %d, %d) ON CONFLICT DO NOTHING", k, next, next)
		case 18:
			return fmt.Sprintf("UPDATE keyed SET v = v + 1 WHERE id BETWEEN %d AND %d; UPDATE ONLY keyed SET u = u + 100000 WHERE id = %d", k, k+9, k)
		case 19:
			return fmt.Sprintf("INSERT INTO kid SELECT %d, id FROM ONLY keyed WHERE id >= %d LIMIT 1 ON CONFLICT DO NOTHING", next, k)
		case 20:
			return fmt.Sprintf("DELETE FROM keyed WHERE id = %d; INSERT INTO keyed VALUES (%d, %d, 0) ON CONFLICT DO NOTHING; UPDATE ONLY keyed SET id = id + 20 WHERE id = %d AND NOT EXISTS (SELECT FROM keyed WHERE id = %d)", k, k, next, k, k+20)
		case 21:
			return fmt.Sprintf("INSERT INTO heir VALUES (%d, %d, 1) ON CONFLICT DO NOTHING; DELETE FROM heir WHERE id = %d", k, next, k+1)
		case 22:
			return fmt.Sprintf("INSERT INTO dup SELECT %d, 'd' FROM generate_series(1, %d); DELETE FROM dup WHERE ctid = (SELECT ctid FROM dup LIMIT 1)", r, 1+rng.IntN(60))
		}
		return fmt.Sprintf("INSERT INTO fl VALUES (%d / 3.0, 1) ON CONFLICT (k) DO UPDATE SET v = fl.v + 1; UPDATE fl SET k = '-0' WHERE k = 0; UPDATE fl SET v = v + 1 WHERE k = 0", k)
	}
	for range 2 {
		var all []captured
		for range 60 {
			sql := []string{"SELECT pg_logical_emit_message(true, 'mtm', '')", one()} // it may change nothing
			for rng.IntN(3) > 0 {
				sql = append(sql, one())
			}
			all = append(all, p.committed(sql...))
		}
		require.Zero(t, p.recoverAll(all), "what a table is found to need (gen.s cannot be set) stops nothing else")
		p.same(tables...)
	}
}

// TestWhatCannotBeGatheredGoesOneByOne: a unique key that is free only for a moment, and a CHECK that looks at another table.
func TestWhatCannotBeGatheredGoesOneByOne(t *testing.T) {
	p := newPair(t, `CREATE TABLE u (id int PRIMARY KEY, n int UNIQUE); CREATE TABLE parent (id int PRIMARY KEY);
		CREATE FUNCTION has(int) RETURNS bool LANGUAGE sql AS 'SELECT EXISTS (SELECT FROM public.parent WHERE id = $1)';
		CREATE TABLE child (id int PRIMARY KEY, parent int CHECK (parent IS NULL OR has(parent)))`)
	all := []captured{
		p.committed("INSERT INTO u SELECT g, g FROM generate_series(1, 10) g"), p.committed("UPDATE u SET n = 0 WHERE id = 1"),
		p.committed("UPDATE u SET n = 1 WHERE id = 2"), p.committed("UPDATE u SET n = 2 WHERE id = 1"),
	}
	require.Equal(t, 1, p.recoverAll(all))
	require.Equal(t, 10, p.same("u"))
	all = []captured{
		p.committed("INSERT INTO child VALUES (0, NULL)", "INSERT INTO parent VALUES (1)"), p.committed("INSERT INTO child VALUES (1, 1)"),
	}
	require.Zero(t, p.recoverAll(all), "a table whose rows run what somebody wrote is left out")
	require.Equal(t, 3, p.same("child", "parent"))
}

// TestAKeyThatIsVacatedTwice: one key is of two rows, one after the other, in one group of recovery.
func TestAKeyThatIsVacatedTwice(t *testing.T) {
	p := newPair(t, "CREATE TABLE k (id int PRIMARY KEY, v text); INSERT INTO k VALUES (1, 'one'), (2, 'two'), (3, 'three')")
	swap := func() captured {
		return p.committed("UPDATE k SET id = 0 WHERE id = 1", "UPDATE k SET id = 1 WHERE id = 2", "UPDATE k SET id = 2 WHERE id = 0")
	}
	p.recoverAll([]captured{swap(), swap()})
	p.same("k")
	p.recoverAll([]captured{p.committed("UPDATE k SET id = 9 WHERE id = 1"), p.committed("UPDATE k SET id = 1 WHERE id = 2"), p.committed("UPDATE k SET id = 8 WHERE id = 1")})
	p.same("k")
}

// TestWhatFailsBeforeACopyIsNotTakenForDone: a gathered statement finds a row too few, and a COPY is on its way behind it. The answers to
// both are told apart, so that a COMMIT that fails later is not taken for one that succeeded.
func TestWhatFailsBeforeACopyIsNotTakenForDone(t *testing.T) {
	p := newPair(t, "CREATE TABLE k (id int PRIMARY KEY, v text); INSERT INTO k SELECT g, 'x' FROM generate_series(1, 8) g; CREATE TABLE c (id int PRIMARY KEY); CREATE TABLE f (id int PRIMARY KEY)")
	p.b.exec(`CREATE SEQUENCE once; CREATE FUNCTION fail_once() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN IF nextval(''public.once'') = 1 THEN RAISE ''this COMMIT fails, once''; END IF; RETURN NULL; END';
		CREATE CONSTRAINT TRIGGER fail_once AFTER INSERT ON f DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fail_once(); ALTER TABLE f ENABLE ALWAYS TRIGGER fail_once`)
	p.b.exec("DELETE FROM k WHERE id = 8")
	all := []captured{p.committed("INSERT INTO f VALUES (1)")}
	for i := range 8 {
		all = append(all, p.committed(fmt.Sprintf("UPDATE k SET v = 'y' WHERE id = %d", 1+i)))
	}
	for i := range 60 {
		all = append(all, p.committed(fmt.Sprintf("INSERT INTO c VALUES (%d)", i)))
	}
	log := &lockedBuffer{}
	p.b.cfg.Log = slog.New(slog.NewTextHandler(log, nil))
	sink := newRecoverSink(t)
	r := NewRecoverer(p.b.cfg, sink)
	for i, c := range all {
		r.Apply(c.gid, uint64(i+1), c.p)
	}
	p.run(r.Run)
	until(t, "it failed", func() bool { return log.count("one by one") > 0 })
	p.b.exec("INSERT INTO k VALUES (8, 'x')")
	sink.reach(uint64(len(all)))
	p.same("f", "k", "c")
}
