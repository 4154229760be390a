CREATE SCHEMA jsonb;
CREATE TABLE jsonb.orders (id bigint NOT NULL, made_at timestamptz NOT NULL, doc jsonb NOT NULL);
CREATE TABLE jsonb.profiles (id bigint NOT NULL, doc jsonb NOT NULL);
