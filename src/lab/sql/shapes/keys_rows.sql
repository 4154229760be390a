INSERT INTO keys.t_$n
SELECT i, 1 + i * 7919 % $first_rows, CASE WHEN i % 4 > 0 THEN 1 + i / 3 % $second_rows END, CASE WHEN i % 2 > 0 THEN 1 + i * 31 % $third_rows END,
    md5('$n ' || i), (i * 104729 % 9999999) / 100.0
FROM generate_series($first::bigint, $last) AS i
