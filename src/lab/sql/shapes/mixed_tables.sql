CREATE SCHEMA mixed;
CREATE TABLE mixed.wide (
    id bigint NOT NULL,
    account uuid NOT NULL,
    kind text NOT NULL,
    amount numeric(14, 2) NOT NULL,
    rate numeric,
    payload jsonb NOT NULL,
    tags text[],
    scores integer[],
    created_at timestamptz NOT NULL,
    changed_at timestamp,
    note text
);
CREATE TABLE mixed.narrow (id bigint NOT NULL, a integer NOT NULL, b integer, ts timestamptz NOT NULL);
CREATE TABLE mixed.documents (id bigint NOT NULL, title text NOT NULL, body text NOT NULL, raw bytea);
ALTER TABLE mixed.documents ALTER raw SET STORAGE EXTERNAL;
