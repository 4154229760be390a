INSERT INTO bookings (booking_id, code, customer, contact, total, invoice, booked_at)
SELECT i, md5('booking ' || i)::uuid,
    pick('{Ada,Grace,Edgar,Barbara,Michael,Margaret,Donald,Frances,Alan,Radia}', i * 7 + i / 11) || ' '
        || pick('{Lovelace,Hopper,Codd,Liskov,Stonebraker,Hamilton,Knuth,Allen,Turing,Perlman,Gray}', i * 13 + i / 7),
    jsonb_build_object('mail', 'guest' || i || '@example.org', 'phone', '+1 212 555 0' || i % 900 + 100,
        'newsletter', i % 3 = 0, 'points', i * 37 % 50000),
    (i * 7919 % 250000) / 100.0,
    100000 + i * 5,
    '2013-01-01 00:00Z'::timestamptz - i % 5000 * interval '37 minutes'
FROM generate_series($first::bigint, $last) AS i
