INSERT INTO documents
SELECT i, (SELECT tailnum FROM planes ORDER BY tailnum OFFSET i * 31 % 3000 LIMIT 1), 'Inspection report ' || i,
    ARRAY['inspection', pick('{airframe,engine,avionics,cabin,gear}', i)],
    (SELECT string_agg(pick('{found,inspected,replaced,tightened,the,left,right,hydraulic,actuator,within,limits,of,fan,blade,
        corrosion,sealed,no,further,action,item,deferred,per,manual,checked,wing,spar,fuel,pump,valve,panel}',
        (n * 2654435761 + i * 40503 + n * n / 7) % 1000003), ' ') FROM generate_series(1, 800 + i % 5 * 900) AS n),
    CASE WHEN i % 2 = 0 THEN
        (SELECT decode(string_agg(md5(i || ' ' || n), ''), 'hex') FROM generate_series(1, 1500 + i % 7 * 400) AS n) END,
    date '2013-01-01' + (i % 365)::integer
FROM generate_series($first::bigint, $last) AS i
