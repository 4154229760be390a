// Makes the job queue's schema, and two queues: each is a partition of its own.
const PgBoss = require("pg-boss");

async function main() {
  const { PGHOST: host, PGPORT: port, PGUSER: user, PGDATABASE: database } = process.env;
  const boss = new PgBoss({ host, port: Number(port), user, database });
  await boss.start();
  for (const queue of ["mail", "Reports, monthly"]) {
    await boss.createQueue(queue.replace(/[^A-Za-z]/g, "_"));
  }
  await boss.stop({ graceful: false });
}

main().then(() => process.exit(0), (error) => {
  console.error(error);
  process.exit(1);
});
