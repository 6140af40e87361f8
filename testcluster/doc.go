// Package testcluster gives Go tests a real cluster: devcluster with a testing.TB in hand. A method that fails ends the
// test, and the message carries the tails of the logs; nothing returns an error.
//
//	c := testcluster.Start(t, testcluster.Options{Nodes: 3})
//	db := c.Node(1).Connect()
//	c.Partition("1,2/3")
//	c.Node(3).WaitStatus("isolated")
//	c.Heal()
//	c.RequireEqual()
//
// Everything is killed when the test ends, and, by the kernel, when the test's process dies however it dies. When the
// test failed, the directory is kept and named if MTM_KEEP is set.
package testcluster
