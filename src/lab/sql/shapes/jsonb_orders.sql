INSERT INTO jsonb.orders
SELECT i, '2022-01-01Z'::timestamptz + i * interval '3.7 seconds',
    jsonb_build_object('order', i, 'customer', jsonb_build_object('id', i * 7919 % 200003, 'name', 'customer ' || i * 7919 % 200003,
            'tags', jsonb_build_array('t' || i % 17, 'u' || i % 5)),
        'state', (ARRAY['open', 'paid', 'sent', 'returned'])[1 + i % 4], 'total', (i * 104729 % 9999999) / 100.0,
        'ref', md5('order ' || i), 'lines', (SELECT jsonb_agg(jsonb_build_object('sku', 'sku-' || i * n % 10007, 'n', n,
            'price', (i * 31 * n % 100000) / 100.0, 'gift', (i + n) % 9 = 0)) FROM generate_series(1, 1 + i % 6) AS n))
FROM generate_series($first::bigint, $last) AS i
