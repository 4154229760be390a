INSERT INTO mixed.small_$table
SELECT i, 1 + i * 31 % $rows, md5('$table ' || i) || md5(i || ' $table'), i * 37 % 100000 / 7.0, i % 3 = 0, date '2020-01-01' + i % 2000
FROM generate_series(1, $rows) AS i
