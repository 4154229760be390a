INSERT INTO toast.texts
SELECT i, 'text ' || i,
    (SELECT string_agg('2024-05-' || 10 + n % 20 || 'T12:' || 10 + n % 50 || ' level=info account=' || i * 7919 * n % 100003
        || ' path=/orders/' || i * n % 9973 || ' status=' || 200 + n % 5 || ' took=' || i * 31 * n % 2003 || E'ms\n', '')
    FROM generate_series(1, 60 + i % 11 * 50) AS n)
FROM generate_series($first::bigint, $last) AS i
