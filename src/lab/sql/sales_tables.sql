CREATE TYPE ticket_status AS ENUM ('booked', 'checked in', 'flown', 'refunded');
CREATE DOMAIN money_usd AS numeric(10, 2) CHECK (VALUE >= 0);
CREATE SEQUENCE invoice_numbers START 100000 INCREMENT 5;
CREATE TABLE bookings (
    booking_id bigint NOT NULL,
    code uuid NOT NULL,
    customer text NOT NULL,
    contact jsonb NOT NULL,
    total money_usd NOT NULL,
    invoice bigint DEFAULT nextval('invoice_numbers'),
    booked_at timestamptz NOT NULL
);
CREATE TABLE tickets (
    ticket_id bigint NOT NULL,
    booking_id bigint NOT NULL,
    flight_id bigint NOT NULL,
    passenger text NOT NULL,
    seat text NOT NULL,
    fare numeric(10, 2) NOT NULL,
    status ticket_status NOT NULL,
    extras jsonb NOT NULL,
    meals text[],
    bags_kg integer[],
    issued_at timestamptz NOT NULL,
    updated_at timestamp
);
CREATE TABLE documents (
    document_id integer NOT NULL,
    tailnum text NOT NULL,
    title text NOT NULL,
    labels text[] NOT NULL,
    body text NOT NULL,
    scan bytea,
    filed_on date NOT NULL
);
CREATE FUNCTION pick(list text[], n bigint) RETURNS text LANGUAGE sql IMMUTABLE
    AS 'SELECT list[1 + (n % array_length(list, 1))::integer]';
