CREATE TABLE airlines (carrier text PRIMARY KEY, name text NOT NULL);
CREATE TABLE airports (
    faa text PRIMARY KEY,
    name text NOT NULL,
    lat double precision,
    lon double precision,
    alt integer,
    tz integer,
    dst "char",
    tzone text
);
CREATE TABLE planes (
    tailnum text PRIMARY KEY,
    year smallint,
    type text,
    manufacturer text,
    model text,
    engines smallint,
    seats smallint,
    speed smallint,
    engine text
);
CREATE TABLE weather (
    origin text NOT NULL,
    year smallint NOT NULL,
    month smallint NOT NULL,
    day smallint NOT NULL,
    hour smallint NOT NULL,
    temp real,
    dewp real,
    humid real,
    wind_dir smallint,
    wind_speed double precision,
    wind_gust double precision,
    precip numeric(5, 2),
    pressure numeric(6, 1),
    visib real,
    time_hour timestamptz NOT NULL
);
CREATE TABLE flights (
    year smallint NOT NULL,
    month smallint NOT NULL,
    day smallint NOT NULL,
    dep_time smallint,
    sched_dep_time smallint NOT NULL,
    dep_delay real,
    arr_time smallint,
    sched_arr_time smallint NOT NULL,
    arr_delay real,
    carrier text NOT NULL,
    flight integer NOT NULL,
    tailnum text,
    origin text NOT NULL,
    dest text NOT NULL,
    air_time real,
    distance real NOT NULL,
    hour smallint NOT NULL,
    minute smallint NOT NULL,
    time_hour timestamptz NOT NULL,
    flight_id bigserial
);
