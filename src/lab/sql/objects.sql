SELECT setval('invoice_numbers', (SELECT max(invoice) FROM bookings));
ALTER SEQUENCE invoice_numbers OWNED BY bookings.invoice;

CREATE VIEW busiest_routes AS
    SELECT origin, dest, count(*) AS flights, round(avg(arr_delay)::numeric, 1) AS mean_delay_minutes
    FROM flights GROUP BY origin, dest ORDER BY flights DESC;
CREATE MATERIALIZED VIEW delays_by_carrier AS
    SELECT a.name, count(*) AS flights, avg(f.arr_delay) AS mean_delay_minutes
    FROM flights f JOIN airlines a USING (carrier) GROUP BY a.name;
CREATE UNIQUE INDEX delays_by_carrier_name ON delays_by_carrier (name);
CREATE MATERIALIZED VIEW worst_carriers AS
    SELECT name, mean_delay_minutes FROM delays_by_carrier ORDER BY mean_delay_minutes DESC NULLS LAST LIMIT 3;

CREATE FUNCTION touch_ticket() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at := now() AT TIME ZONE 'UTC';
    RETURN NEW;
END
$$;
CREATE TRIGGER tickets_touch BEFORE INSERT OR UPDATE ON tickets FOR EACH ROW EXECUTE PROCEDURE touch_ticket();

SELECT lo_from_bytea(20130101, decode(string_agg(md5('chart ' || n), ''), 'hex')) FROM generate_series(1, 20000) AS n;
SELECT lo_from_bytea(20130102, 'Departures from New York, 2013');
COMMENT ON LARGE OBJECT 20130101 IS 'A chart of the year';
