CREATE SCHEMA narrow;
CREATE TABLE narrow.points (id bigint NOT NULL, a integer NOT NULL, b integer);
