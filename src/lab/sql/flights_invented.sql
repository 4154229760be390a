INSERT INTO airlines
SELECT 'Z' || chr(64 + i), 'Invented Airline ' || i FROM generate_series(1, 16) AS i;
INSERT INTO airports
SELECT code, 'Invented Airport ' || code, 25 + i % 24, -120 + i % 50, i % 1500, -5 - i % 4, 'A', 'America/New_York'
FROM (
    SELECT i, CASE i WHEN 0 THEN 'EWR' WHEN 1 THEN 'JFK' WHEN 2 THEN 'LGA'
        ELSE chr(65 + i / 26 % 26) || chr(65 + i % 26) || 'X' END AS code
    FROM generate_series(0, 299) AS i
) AS codes;
INSERT INTO planes
SELECT 'N' || 10000 + i, 1985 + i % 28, 'Fixed wing multi engine', 'INVENTED', 'I-' || i % 40, 2, 50 + i % 250, NULL, 'Turbo-fan'
FROM generate_series(0, 3321) AS i;
INSERT INTO weather
SELECT origin, 2013, extract(month FROM at), extract(day FROM at), extract(hour FROM at),
    40 + 30 * sin(extract(doy FROM at) / 58.0), 35, 60, extract(doy FROM at)::integer * 7 % 360, 8.05546, NULL, 0, 1012.3, 10, at
FROM generate_series('2013-01-01 06:00Z'::timestamptz, '2013-12-30 23:00Z', '1 hour') AS at,
    unnest('{EWR,JFK,LGA}'::text[]) AS origin;
INSERT INTO flights
SELECT 2013, extract(month FROM at), extract(day FROM at), 100 * extract(hour FROM at) + i % 60, 100 * extract(hour FROM at) + i % 60,
    i * 37 % 60 - 10, 900, 855, i * 41 % 70 - 20, 'Z' || chr(65 + i * 7 % 16), i % 6000, 'N' || 10000 + i * 31 % 3322,
    ('{EWR,JFK,LGA}'::text[])[1 + i % 3],
    chr(65 + (3 + i * 13 % 297) / 26 % 26) || chr(65 + (3 + i * 13 % 297) % 26) || 'X',
    60 + i % 300, 200 + i % 2400, extract(hour FROM at), i % 60, at
FROM (SELECT i, '2013-01-01 10:00Z'::timestamptz + i / 38 * interval '1 hour' AS at FROM generate_series(0, 336775) AS i) AS hours;
