CREATE SCHEMA giant;
CREATE TABLE giant.events (
    id bigint NOT NULL,
    account uuid NOT NULL,
    created_at timestamptz NOT NULL,
    kind integer NOT NULL,
    region integer NOT NULL,
    quantity integer,
    amount numeric(14, 2) NOT NULL,
    details jsonb NOT NULL,
    note text
);
