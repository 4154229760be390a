INSERT INTO tickets
SELECT i, 1 + i % $bookings, 1 + i * 2654435761 % $flights,
    pick('{Ada,Grace,Edgar,Barbara,Michael,Margaret,Donald,Frances,Alan,Radia}', i * 3 + i / 17) || ' '
        || pick('{Lovelace,Hopper,Codd,Liskov,Stonebraker,Hamilton,Knuth,Allen,Turing,Perlman,Gray}', i * 5 + i / 19),
    1 + i * 31 % 42 || pick('{A,B,C,D,E,F}', i),
    40 + (i * 104729 % 96000) / 100.0,
    (enum_range(NULL::ticket_status))[1 + i % 4],
    jsonb_build_object('wifi', i % 5 = 0, 'lounge', i % 11 = 0, 'upgrade', md5('upgrade ' || i / 3)),
    CASE i % 4 WHEN 0 THEN NULL WHEN 1 THEN '{}' ELSE ARRAY['vegetarian', 'tea "hot"'] END,
    CASE WHEN i % 3 > 0 THEN ARRAY[23, (i % 9)::integer] END,
    '2013-01-01 00:00Z'::timestamptz + i * 7 % 31000000 * interval '1 second',
    CASE WHEN i % 6 = 0 THEN timestamp '2014-01-01' + i % 100000 * interval '1 microsecond' END
FROM generate_series($first::bigint, $last) AS i
