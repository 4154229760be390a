-- Fills every table of a database with rows that its constraints allow, the same ones each time.
-- Each row is tried with all of its columns, then with those alone that must have a value.

CREATE FUNCTION pg_temp.value(type oid, modifier int, choices text[], i int) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    t pg_catalog.pg_type;
    digits int;
BEGIN
    SELECT * INTO STRICT t FROM pg_catalog.pg_type WHERE oid = type;
    IF cardinality(choices) > 0 THEN
        RETURN choices[1 + i % cardinality(choices)];
    ELSIF t.typtype = 'd' THEN
        RETURN pg_temp.value(t.typbasetype, t.typtypmod, choices, i);
    ELSIF t.typtype = 'e' THEN
        RETURN (SELECT (array_agg(enumlabel ORDER BY enumsortorder))[1 + i % count(*)] FROM pg_enum WHERE enumtypid = type);
    ELSIF t.typcategory = 'A' THEN
        RETURN ARRAY[pg_temp.value(t.typelem, modifier, NULL, i), pg_temp.value(t.typelem, modifier, NULL, i + 1)]::text;
    END IF;
    CASE t.typname
        WHEN 'bool' THEN RETURN i % 2 = 0;
        WHEN 'int2', 'int4', 'int8', 'oid' THEN RETURN i;
        WHEN 'float4', 'float8' THEN RETURN i / 7.0::float8;
        WHEN 'numeric' THEN
            digits := CASE WHEN modifier > 0 THEN ((modifier - 4) >> 16) - ((modifier - 4) & 2047) ELSE 9 END;
            RETURN i % (10 ^ least(digits, 9))::int;
        WHEN 'text', 'varchar', 'bpchar' THEN
            RETURN left(i || E' r\u00fcck"w\\\t\u00e4rts ' || md5(i::text), CASE WHEN modifier > 4 THEN modifier - 4 ELSE 60 END);
        WHEN 'name' THEN RETURN 'name ' || i;
        WHEN 'uuid' THEN RETURN md5(i::text)::uuid;
        WHEN 'date', 'timestamp', 'timestamptz' THEN RETURN timestamp '1999-12-24 23:59:58.123456' + i * interval '27 hours';
        WHEN 'time' THEN RETURN time '00:00:00.5' + i * interval '61 seconds';
        WHEN 'interval' THEN RETURN i * interval '1 month 1 second';
        WHEN 'json', 'jsonb' THEN RETURN json_build_object('n', i, 'a', ARRAY[i, NULL], 't', E'"\u00e4\\');
        WHEN 'bytea' THEN RETURN '\x00ff' || md5(i::text);
        WHEN 'inet', 'cidr' THEN RETURN '10.0.' || i / 256 || '.' || i % 256;
        WHEN 'tsvector' THEN RETURN to_tsvector('simple', 'row ' || i || ' ' || md5(i::text));
        ELSE RETURN NULL;
    END CASE;
END $$;

-- What a check of this column alone, or the partition's bounds, let a text be.
CREATE FUNCTION pg_temp.choices(relation oid, attribute int2, attname name) RETURNS text[] LANGUAGE sql AS $$
    SELECT array_agg(DISTINCT literal[1])
    FROM (SELECT pg_get_constraintdef(oid) FROM pg_constraint
          WHERE conrelid = relation AND contype = 'c' AND conkey = ARRAY[attribute]
          UNION ALL
          SELECT def FROM pg_get_partition_constraintdef(relation) def WHERE strpos(def, quote_ident(attname)) > 0
         ) checks (def), regexp_matches(def, '''([^'']+)''::', 'g') literal
    WHERE def !~ '~|length'
$$;

CREATE FUNCTION pg_temp.fill_row(relation oid, i int, needed_only bool) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    c record;
    given jsonb := '{}';
    referenced text[];
BEGIN
    FOR c IN SELECT conkey, confrelid, conrelid,
                    (SELECT string_agg(quote_ident(attname) || '::text', ', ' ORDER BY n)
                     FROM unnest(confkey) WITH ORDINALITY k (a, n)
                     JOIN pg_attribute ON attrelid = confrelid AND attnum = a) AS columns
             FROM pg_constraint WHERE conrelid = relation AND contype = 'f' ORDER BY cardinality(conkey) DESC, oid
    LOOP
        EXECUTE format('SELECT ARRAY[%1$s] FROM %2$s ORDER BY tableoid, ctid
                        OFFSET %3$s %% greatest((SELECT count(*) FROM %2$s), 1) LIMIT 1',
                       c.columns, c.confrelid::regclass, i - 1) INTO referenced;
        FOR k IN 1 .. cardinality(c.conkey) LOOP
            IF NOT given ? c.conkey[k]::text THEN
                given := given || jsonb_build_object(c.conkey[k]::text, referenced[k]);
            END IF;
        END LOOP;
    END LOOP;
    FOR c IN SELECT * FROM pg_attribute JOIN pg_type t ON t.oid = atttypid
                  LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
             WHERE attrelid = relation AND attnum > 0 AND NOT attisdropped
    LOOP
        IF given ? c.attnum::text THEN
            CONTINUE;
        ELSIF c.attidentity = '' AND c.attgenerated = '' AND coalesce(pg_get_expr(c.adbin, c.adrelid), '') !~ '^nextval'
            AND (NOT needed_only OR c.attnotnull AND NOT c.atthasdef)
        THEN
            given := given || jsonb_build_object(c.attnum::text, pg_temp.value(c.atttypid, c.atttypmod,
                         CASE WHEN c.typcategory = 'S' THEN pg_temp.choices(relation, c.attnum, c.attname) END, i));
        END IF;
    END LOOP;
    EXECUTE (SELECT format('INSERT INTO %s (%s) VALUES (%s) ON CONFLICT DO NOTHING', relation::regclass,
                           string_agg(quote_ident(attname), ', ' ORDER BY attnum),
                           string_agg(quote_nullable(value), ', ' ORDER BY attnum))
             FROM jsonb_each_text(given) JOIN pg_attribute ON attrelid = relation AND attnum = key::int2);
END $$;

DO $$
DECLARE
    rows CONSTANT int := 200;
    todo oid[] := ARRAY(SELECT oid FROM pg_class WHERE relkind = 'r'
                        AND relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
                        ORDER BY oid);
    ready oid;
BEGIN
    WHILE cardinality(todo) > 0 LOOP
        -- What it refers to comes first; where that goes round in a circle, what must be there.
        SELECT t INTO ready FROM unnest(todo) WITH ORDINALITY u (t, n)
        ORDER BY (SELECT count(*) FILTER (WHERE attnotnull) * 1000 + count(*)
                  FROM pg_constraint JOIN pg_attribute ON attrelid = conrelid AND attnum = conkey[1]
                  WHERE conrelid = t AND contype = 'f' AND confrelid <> t AND confrelid = ANY (todo)), n LIMIT 1;
        todo := array_remove(todo, ready);
        FOR i IN 1 .. rows LOOP
            BEGIN
                PERFORM pg_temp.fill_row(ready, i, false);
            EXCEPTION WHEN OTHERS THEN
                BEGIN
                    PERFORM pg_temp.fill_row(ready, i, true);
                EXCEPTION WHEN OTHERS THEN
                    IF i = 1 THEN
                        RAISE WARNING '%: %', ready::regclass, SQLERRM;
                    END IF;
                END;
            END;
        END LOOP;
    END LOOP;
END $$;
