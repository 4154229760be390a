-- The published tables lack these destinations and many planes: what flights refer to is added, so that keys hold.
INSERT INTO airports (faa, name, lat, lon, alt, tz, dst, tzone)
SELECT * FROM (VALUES
    ('BQN', 'Rafael Hernandez', 18.4949, -67.1294, 237, -4, 'N'::"char", 'America/Puerto_Rico'),
    ('PSE', 'Mercedita', 18.0083, -66.5630, 29, -4, 'N', 'America/Puerto_Rico'),
    ('SJU', 'Luis Munoz Marin Intl', 18.4394, -66.0018, 9, -4, 'N', 'America/Puerto_Rico'),
    ('STT', 'Cyril E King', 18.3373, -64.9734, 23, -4, 'N', 'America/St_Thomas')
) AS more (faa, name, lat, lon, alt, tz, dst, tzone)
WHERE NOT EXISTS (SELECT FROM airports a WHERE a.faa = more.faa);
INSERT INTO planes (tailnum)
SELECT DISTINCT tailnum FROM flights f
WHERE tailnum IS NOT NULL AND NOT EXISTS (SELECT FROM planes p WHERE p.tailnum = f.tailnum);

ALTER TABLE flights ADD PRIMARY KEY (flight_id);
ALTER TABLE weather ADD PRIMARY KEY (origin, time_hour);
ALTER TABLE weather ADD FOREIGN KEY (origin) REFERENCES airports;
ALTER TABLE flights ADD FOREIGN KEY (carrier) REFERENCES airlines;
ALTER TABLE flights ADD FOREIGN KEY (tailnum) REFERENCES planes;
ALTER TABLE flights ADD CONSTRAINT flights_origin_fkey FOREIGN KEY (origin) REFERENCES airports;
ALTER TABLE flights ADD CONSTRAINT flights_dest_fkey FOREIGN KEY (dest) REFERENCES airports;
CREATE INDEX flights_route ON flights (origin, dest);
CREATE INDEX flights_time_hour ON flights (time_hour);
CREATE INDEX flights_late ON flights (arr_delay) WHERE arr_delay > 60;
COMMENT ON TABLE flights IS 'Every flight that left New York''s airports in 2013 (EWR, JFK, LGA)';
