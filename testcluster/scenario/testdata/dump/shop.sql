-- A small application, of what pg_dump knows to write: restored through the gateway, and dumped there again.
CREATE SCHEMA shop;
COMMENT ON SCHEMA shop IS 'all of it';
SET search_path = shop;
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE SEQUENCE invoice_number START 1000 INCREMENT 10 CACHE 5;
CREATE FUNCTION taxed(numeric) RETURNS numeric LANGUAGE sql IMMUTABLE AS $$ SELECT round($1 * 1.19, 2) $$;
CREATE TABLE customers (
	id serial PRIMARY KEY,
	name text NOT NULL,
	email text UNIQUE,
	mood mood DEFAULT 'ok',
	tags text[] DEFAULT '{}',
	extra jsonb,
	active tstzrange,
	photo bytea
);
CREATE TABLE orders (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	number int NOT NULL DEFAULT nextval('invoice_number') UNIQUE,
	customer int NOT NULL REFERENCES customers ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
	net numeric(10,2) CHECK (net >= 0),
	gross numeric GENERATED ALWAYS AS (taxed(net)) STORED,
	placed timestamptz NOT NULL DEFAULT now(),
	pieces positive DEFAULT 1,
	EXCLUDE USING gist (int4range(number, number, '[]') WITH &&)
);
CREATE INDEX ON orders (placed DESC) INCLUDE (net) WHERE net > 10;
CREATE INDEX customers_lower ON customers (lower(name));
CREATE TABLE events (at timestamptz NOT NULL, what text) PARTITION BY RANGE (at);
CREATE TABLE events_2025 PARTITION OF events FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE events_rest PARTITION OF events DEFAULT;
CREATE TABLE nokey (a int, b xml);
CREATE TABLE bigger (LIKE customers INCLUDING ALL) INHERITS (nokey);
CREATE UNLOGGED TABLE cache (k text PRIMARY KEY, v text);
CREATE FUNCTION log_order() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO shop.events VALUES (NEW.placed, 'order ' || NEW.number);
	RETURN NEW;
END $$;
CREATE TRIGGER logged AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION log_order();
CREATE TRIGGER logged_always BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();
ALTER TABLE orders ENABLE ALWAYS TRIGGER logged_always;
CREATE VIEW open_orders AS SELECT o.id, c.name FROM orders o JOIN customers c ON c.id = o.customer;
CREATE RULE nothing AS ON DELETE TO open_orders DO INSTEAD NOTHING;
CREATE PROCEDURE clean() LANGUAGE sql AS $$ DELETE FROM shop.cache $$;
CREATE AGGREGATE product(numeric) (SFUNC = numeric_mul, STYPE = numeric, INITCOND = 1);
CREATE TEXT SEARCH CONFIGURATION plain (COPY = simple);
CREATE COLLATION german (provider = libc, locale = 'C');
CREATE STATISTICS customers_stats (ndistinct) ON name, mood FROM customers;
ALTER TABLE customers ENABLE ROW LEVEL SECURITY;
CREATE POLICY happy_ones ON customers FOR SELECT USING (mood = 'happy');
GRANT SELECT ON orders TO PUBLIC;
COMMENT ON COLUMN orders.net IS 'without tax';
INSERT INTO customers (name, email, mood, tags, extra, active, photo)
	SELECT 'c' || i, 'c' || i || '@example.org', (ARRAY['sad', 'ok', 'happy'])[i % 3 + 1]::mood,
		ARRAY['a', 'b "quoted"', NULL], jsonb_build_object('i', i, 'deep', jsonb_build_array(1, NULL, 'x')),
		tstzrange('2025-01-01'::timestamptz + i * interval '1 day', NULL), decode(md5(i::text), 'hex') FROM generate_series(1, 500) i;
INSERT INTO orders (customer, net, placed) SELECT i, i * 1.5, '2025-03-01'::timestamptz + i * interval '1 hour' FROM generate_series(1, 500) i;
INSERT INTO nokey VALUES (1, '<a/>'), (1, '<a/>'), (NULL, NULL);
CREATE MATERIALIZED VIEW turnover AS SELECT date_trunc('day', placed) AS day, sum(gross) FROM orders GROUP BY 1;
CREATE UNIQUE INDEX ON turnover (day);
